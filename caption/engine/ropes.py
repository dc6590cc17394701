"""Rotary embeddings whose frequencies transformers chooses by the longest text of a batch, for all of its rows.

Those of the types dynamic and longrope (transformers 5.23, modeling_rope_utils.py:49, 89).

A text within the model's reach has the first frequencies, whoever stands beside it. One that goes beyond is alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

BY_THE_LONGEST = {"dynamic", "longrope"}


def find_reach(config: PreTrainedConfig) -> float:
    """How many tokens a text may have that stands in a batch with others. config: of the text model."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [given] if {"rope_type", "type"} & set(given) else [one for one in given.values() if isinstance(one, dict)]
    lengths = [
        length
        for one in kinds
        if _kind(one) in BY_THE_LONGEST
        for length in (
            one.get("original_max_position_embeddings"),
            getattr(config, "original_max_position_embeddings", None),
            getattr(config, "max_position_embeddings", None),
        )
        if length
    ]
    return min(lengths, default=math.inf)


def _kind(given: dict) -> str | None:
    return given.get("rope_type", given.get("type"))


class Ropes:
    """Those of a model, each with one type for all layers.

    While texts are short their frequencies stay, so that no step asks how long texts are: on a GPU the host would wait
    for the answer, and such a step can't be captured.

    reach: how many tokens a text may have that stands in a batch with others.
    """

    def __init__(self, model: torch.nn.Module):
        self.reach = find_reach(model.config.get_text_config(decoder=True))
        self.long: bool | None = None  # what it was settled for
        self.kinds: dict[torch.nn.Module, tuple[str, torch.Tensor]] = {}
        for module in model.modules():
            kind = _kind(getattr(getattr(module, "config", None), "rope_parameters", None) or {})
            if kind in BY_THE_LONGEST and isinstance(getattr(module, "rope_type", None), str):
                # A place in memory that stays, from which captured steps read.
                self.kinds[module] = kind, module.original_inv_freq.clone()

    def settle(self, long: bool) -> None:
        """For the texts that come next: short ones, or a long one, which starts as if it were the first."""
        if not long and self.long is False:
            return
        self.long = long
        for module, (kind, frequencies) in self.kinds.items():
            frequencies.copy_(module.original_inv_freq)
            module.register_buffer("inv_freq", frequencies, persistent=False)
            module.rope_type = kind if long else "default"
            if hasattr(module, "original_max_seq_len"):  # which grows with the longest so far
                module.max_seq_len_cached = module.original_max_seq_len
