"""What happens to the logits of a step before the next token is taken from them.

Each is a LogitsProcessor of transformers: called with ids [rows, so far] and scores [rows, vocabulary] in fp32.
"""

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from caption.engine import EngineOptions

# Increment and multipliers of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014),
# as signed 64-bit integers: torch multiplies those modulo 2**64.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64


def mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's output function on int64: each bit of the result depends on each bit of x."""
    x = (x ^ _shift(x, 30)) * FIRST
    x = (x ^ _shift(x, 27)) * SECOND
    return x ^ _shift(x, 31)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift right: torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def gumbel_noise(seeds: torch.Tensor, steps: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return standard Gumbel noise fp32[rows, vocabulary], a function of (seed, step, token id) and of nothing else.

    seeds, steps: int64[rows]. The largest of logits + noise is a draw from softmax(logits)
    (the Gumbel-max trick), so a caption's random numbers don't depend on its batch, slot, order or device.
    """
    row = mix(mix(seeds + GOLDEN) + steps * GOLDEN)
    bits = mix(row[:, None] + torch.arange(1, vocabulary + 1, device=seeds.device) * GOLDEN)
    # 23 bits and a half: the most that stand exactly in fp32 without reaching 0 or 1.
    uniform = (_shift(bits, 41).float() + 0.5) / (1 << 23)
    return -torch.log(-torch.log(uniform))


class SeededNoise(LogitsProcessor):
    """Adds each row's Gumbel noise, so that argmax is a seeded sample."""

    def __init__(self, seeds: list[int], prompt_length: int, device: torch.device):
        self.seeds = torch.tensor([signed(seed) for seed in seeds], dtype=torch.int64, device=device)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        steps = torch.full_like(self.seeds, input_ids.shape[1] - self.prompt_length)
        return scores + gumbel_noise(self.seeds, steps, scores.shape[1])


def signed(seed: int) -> int:
    """Any integer, modulo 2**64, as a signed one."""
    return (seed + 2**63) % 2**64 - 2**63


class NonFiniteWatch(LogitsProcessor):
    """Notes each row's first step whose logits were not finite. Changes nothing, and never waits for the device."""

    NEVER = 2**62

    def __init__(self, rows: int, prompt_length: int, device: torch.device):
        self.first = torch.full((rows,), self.NEVER, dtype=torch.int64, device=device)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # The maximum carries NaN and +inf. A single -inf is a banned token; a whole row of them is not.
        step = torch.where(scores.amax(-1).isfinite(), self.NEVER, input_ids.shape[1] - self.prompt_length)
        torch.minimum(self.first, step, out=self.first)
        return scores


class RepetitionPenalty(LogitsProcessor):
    """transformers' repetition penalty (Keskar et al., CTRL, 2019), each row its own, and blind to padding.

    Before 5.23 transformers penalizes the padding token in padded rows: often the one that ends a text, so the end
    would move with the neighbours. penalties: fp32[rows]. attention_mask: [rows, prompt], None where nothing is padded.
    """

    def __init__(self, penalties: torch.Tensor, attention_mask: torch.Tensor | None):
        self.penalties, self.mask = penalties[:, None], attention_mask

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.mask is not None:
            length = self.mask.shape[1]
            # A padded prompt's last token is a real one: standing in for the padding, it is penalized as before.
            prompt = torch.where(self.mask.bool(), input_ids[:, :length], input_ids[:, length - 1 : length])
            input_ids = torch.cat([prompt, input_ids[:, length:]], 1)
        seen = scores.gather(1, input_ids)
        seen = torch.where(seen < 0, seen * self.penalties, seen / self.penalties)
        return scores.scatter(1, input_ids, seen)


def processors(
    given: LogitsProcessorList,
    options: EngineOptions,
    watch: NonFiniteWatch,
    seeds: list[int],
    penalties: list[float],
    attention_mask: torch.Tensor | None,
) -> LogitsProcessorList:
    """Return `given`, what generate made of the checkpoint's generation_config, completed for one batch.

    penalties: of each row, a factor on the repetition penalty that is given.
    """
    penalty, others = parted(given)
    made = LogitsProcessorList([watch])
    if penalty != 1 or any(factor != 1 for factor in penalties):
        rows = torch.tensor(penalties, dtype=torch.float32, device=watch.first.device) * penalty
        made.append(RepetitionPenalty(rows, attention_mask))
    made += others
    if options.temperature > 0:
        made += [*warpers(options), SeededNoise(seeds, watch.prompt_length, watch.first.device)]
    return made


def parted(given: LogitsProcessorList) -> tuple[float, list[LogitsProcessor]]:
    """The repetition penalty, 1 where none is given, and the other processors, which all come behind it."""
    penalties = [one.penalty for one in given if isinstance(one, RepetitionPenaltyLogitsProcessor)]
    others = [one for one in given if not isinstance(one, RepetitionPenaltyLogitsProcessor)]
    return (penalties[0] if penalties else 1.0), others


def warpers(options: EngineOptions) -> list[LogitsProcessor]:
    """What the options do to the scores before a sample is drawn, in transformers' order."""
    made = [TemperatureLogitsWarper(options.temperature)]
    if options.top_k:
        made.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        made.append(TopPLogitsWarper(options.top_p))
    return made
