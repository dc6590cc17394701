"""Logits processors for rows that stand at different steps of their texts.

transformers' processors take one step for all rows of a batch. Here each is called with scores [rows, vocabulary] in
fp32 and a Rows, which says where each row stands; it gives what transformers' gives to that row alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from caption.engine import EngineOptions
from caption.engine.sampling import RepetitionPenalty, gumbel_noise, parted, warpers

# These look at the scores alone.
STATELESS = (SuppressTokensLogitsProcessor, InfNanRemoveLogitsProcessor, LogitNormalization)


class Unsupported(Exception):
    """The model or its settings ask for something that slots can't give; the message says what."""


@dataclass(frozen=True)
class Rows:
    """seeds, steps: int64[rows]; step 0 is the first new token. ids: int64[rows, most], the tokens so far of each row
    (a decoder's start or the prompt without its padding, then the new ones), lengths int64[rows] of them; what follows
    those is anything. Both None where nothing looks back. penalties: fp32[rows], 1 where nothing is penalized."""

    seeds: torch.Tensor
    steps: torch.Tensor
    penalties: torch.Tensor
    ids: torch.Tensor | None = None
    lengths: torch.Tensor | None = None


RowProcessor = Callable[[torch.Tensor, Rows], torch.Tensor]


class RowProcessors:
    """All that happens to the logits of a step, in transformers' order.

    given: what generate made of the checkpoint's generation_config for a prompt of `prompt_length`. Raises Unsupported.
    penalty: the repetition penalty of rows that have none of their own. looks_back: they need their tokens so far.
    """

    def __init__(self, given: LogitsProcessorList, options: EngineOptions, prompt_length: int):
        news = [one.min_new_tokens for one in given if isinstance(one, MinNewTokensLengthLogitsProcessor)]
        least = prompt_length + max(news, default=0)
        self.penalty, others = parted(given)
        self.processors = [_rowwise(processor, prompt_length, least) for processor in others]
        if options.temperature > 0:
            self.processors += [_stateless(warper) for warper in warpers(options)]
            self.processors.append(_add_noise)
        self.looks_back = self.penalty != 1 or any(isinstance(one, _NoRepeat) for one in self.processors)

    def __call__(self, scores: torch.Tensor, rows: Rows) -> torch.Tensor:
        if rows.ids is not None:
            scores = _penalized(scores, rows)
        for processor in self.processors:
            scores = processor(scores, rows)
        return scores


def _rowwise(processor, prompt_length: int, least: int) -> RowProcessor:
    """prompt_length: of the group, padding included. least: the length up to which min_new_tokens forbids an end."""
    if isinstance(processor, STATELESS):
        return _stateless(processor)
    if isinstance(processor, NoRepeatNGramLogitsProcessor):
        return _NoRepeat(processor.ngram_size)
    if isinstance(processor, SuppressTokensAtBeginLogitsProcessor):
        return _Ban(processor.begin_suppress_tokens, processor.begin_index - prompt_length, 1)
    if isinstance(processor, MinNewTokensLengthLogitsProcessor):
        return _Ban(processor.eos_token_id, 0, processor.min_new_tokens)
    if isinstance(processor, MinLengthLogitsProcessor) and processor.min_length == least:
        return _Ban(processor.eos_token_id, 0, least - prompt_length)  # min_new_tokens makes this one as well
    if isinstance(processor, ForcedBOSTokenLogitsProcessor):
        # It looks for a text of one token: only a decoder's start is that short.
        return _Force(processor.bos_token_id) if prompt_length == 1 else _stateless(lambda ids, scores: scores)
    raise Unsupported(f"its generation_config asks for {type(processor).__name__}, which looks at a batch as a whole")


def _stateless(processor) -> RowProcessor:
    return lambda scores, rows: processor(None, scores)


def _penalized(scores: torch.Tensor, rows: Rows) -> torch.Tensor:
    """RepetitionPenalty over the tokens of each row."""
    place = torch.arange(rows.ids.shape[1], device=scores.device)
    ids = torch.where(place < rows.lengths[:, None], rows.ids, rows.ids[:, :1])
    return RepetitionPenalty(rows.penalties, None)(ids, scores)


def _add_noise(scores: torch.Tensor, rows: Rows) -> torch.Tensor:
    return scores + gumbel_noise(rows.seeds, rows.steps, scores.shape[1])


class _Ban:
    """No token of `ids` in `count` steps from step `first` on."""

    def __init__(self, ids: torch.Tensor, first: int, count: int):
        self.ids, self.first, self.count = ids, first, count

    def __call__(self, scores: torch.Tensor, rows: Rows) -> torch.Tensor:
        now = (rows.steps >= self.first) & (rows.steps < self.first + self.count)
        ids = self.ids.to(scores.device)
        banned = torch.where(now[:, None], -torch.inf, scores[:, ids])
        return scores.index_copy(1, ids, banned)


class _Force:
    """The first token is this one."""

    def __init__(self, token: int):
        self.token = token

    def __call__(self, scores: torch.Tensor, rows: Rows) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.token] = 0
        return torch.where(rows.steps[:, None] == 0, forced, scores)


class _NoRepeat:
    """No run of `size` tokens twice in a row's text."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, scores: torch.Tensor, rows: Rows) -> torch.Tensor:
        before, ids = self.size - 1, rows.ids
        starts = max(ids.shape[1] - before, 0)  # each is the start of a run, if its last token is there
        match = torch.arange(starts, device=ids.device) + before < rows.lengths[:, None]
        for offset in range(before):
            last = (rows.lengths[:, None] - before + offset).clamp(min=0)
            match &= ids[:, offset : offset + starts] == ids.gather(1, last)
        banned = torch.where(match, -torch.inf, torch.inf)
        return scores.scatter_reduce(1, ids[:, before:], banned, "amin")
