"""Features of vision's inner layers, added to the text's first layers (Qwen3-VL and others), without waits.

The models pick a picture's tokens by a mask. How many those are is asked of the device, in each of these layers, and
answered behind all of vision.
"""

from collections.abc import Callable

import torch

from caption.engine.methods import replace
from caption.engine.tilefeatures import spread

NAME = "_deepstack_process"  # of the method, in all families that have it


def install(model: torch.nn.Module) -> Callable[[], None]:
    """Let the model add them so. Return what undoes it."""
    return replace(model, NAME, lambda _: _added)


def _added(hidden_states: torch.Tensor, visual_pos_masks: torch.Tensor, visual_embeds: torch.Tensor) -> torch.Tensor:
    """hidden_states: [rows, tokens, size]; visual_pos_masks: bool[rows, tokens]; visual_embeds: [true ones, size]."""
    if not len(visual_embeds):
        return hidden_states
    here = visual_pos_masks.to(hidden_states.device)
    added = spread(visual_embeds.to(hidden_states.device, hidden_states.dtype), here)
    return torch.where(here[..., None], hidden_states + added, hidden_states)
