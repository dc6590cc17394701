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
        if one.get("rope_type", one.get("type")) in BY_THE_LONGEST
        for length in (
            one.get("original_max_position_embeddings"),
            getattr(config, "original_max_position_embeddings", None),
            getattr(config, "max_position_embeddings", None),
        )
        if length
    ]
    return min(lengths, default=math.inf)


class Ropes:
    """Those of a model. While texts are short their frequencies stay, so that no step asks how long texts are: on a GPU
    the host would wait for the answer, and such a step can't be captured."""

    def __init__(self, model: torch.nn.Module):
        # Frequencies keep their place in memory, from which captured steps read them.
        self.first = [
            (module, module.rope_type, module.inv_freq, module.attention_scaling)
            for module in model.modules()
            if isinstance(getattr(module, "rope_type", None), str) and module.rope_type in BY_THE_LONGEST
        ]
        self.long: bool | None = None

    def settle(self, long: bool) -> None:
        """For the texts that come next: short ones, or a long one, for which each starts as for the first text."""
        if not long and self.long is False:
            return
        self.long = long
        for module, kind, frequencies, scaling in self.first:
            frequencies.copy_(module.original_inv_freq)
            module.register_buffer("inv_freq", frequencies, persistent=False)
            module.attention_scaling, module.rope_type = scaling, kind if long else "default"
            if hasattr(module, "original_max_seq_len"):  # which grows with the longest so far
                module.max_seq_len_cached = module.original_max_seq_len
