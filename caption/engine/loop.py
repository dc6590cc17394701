"""One call of generate, seen from inside its decoding loop."""

from caption.engine import EngineOptions
from caption.engine.sampling import NonFiniteWatch, processors


class Loop:
    """Handed to generate as `custom_generate`: runs the usual loop with our logits processors, and keeps its results.

    Families differ in what generate returns before the new tokens: the prompt, a decoder's start, or nothing; and some
    pass the end token only to an inner decoder. The loop gets the true ones whatever the family: generate has prepared
    the inputs, and a model that overrides generate hands `custom_generate` on to its decoder's.

    After the call: generated, a list of token ids a row, the end token and padding included; ends, the ids that end a
    text; non_finite, the first step a row whose logits were not finite, NonFiniteWatch.NEVER where there was none.
    """

    def __init__(self, options: EngineOptions, seeds: list[int], penalties: list[float]):
        self.options, self.seeds, self.penalties = options, seeds, penalties
        self.generated: list[list[int]] = []
        self.ends: set[int] = set()
        self.non_finite: list[int] = []

    def __call__(self, model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        beams = generation_config.num_beams
        length = input_ids.shape[1]
        watch = NonFiniteWatch(input_ids.shape[0], length, input_ids.device)
        mask = None if model.config.is_encoder_decoder else kwargs.get("attention_mask")
        search = model._beam_search if beams > 1 else model._sample
        penalties = [penalty for penalty in self.penalties for _ in range(beams)]
        ids = search(
            input_ids,
            logits_processor=processors(logits_processor, self.options, watch, self.seeds, penalties, mask),
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            **kwargs,
        )
        ends = generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self.generated = ids[:, length:].tolist()
        self.non_finite = watch.first.view(-1, beams).amin(1).tolist()
        return ids
