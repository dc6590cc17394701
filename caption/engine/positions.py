"""Positions of prompts that hold pictures. Models reckon them picture by picture, of a few numbers each: on the host
that takes no time, where on a device each number is waited for.
"""

import functools
from collections.abc import Callable

import torch

from caption.engine.methods import replace

NAME = "get_rope_index"  # of the method, in all families that have three positions a token


def install(model: torch.nn.Module) -> Callable[[], None]:
    """Let the model reckon positions on the host. Return what undoes it."""
    return replace(model, NAME, lambda reckon: functools.partial(_on_host, reckon))


def _on_host(reckon: Callable, *args, **kwargs):
    """What it makes of the same ids, masks and sizes in the host's memory; pictures stay where they are."""
    figures = [one for one in (*args, *kwargs.values()) if _is_small(one)]
    device = figures[0].device if figures else torch.device("cpu")
    if device.type == "cpu":
        return reckon(*args, **kwargs)
    there = [one.cpu() if _is_small(one) else one for one in args]
    named = {name: one.cpu() if _is_small(one) else one for name, one in kwargs.items()}
    try:
        made = reckon(*there, **named)
    except RuntimeError:  # it needs something that lies on the device
        return reckon(*args, **kwargs)
    return tuple(one.to(device) if torch.is_tensor(one) else one for one in made)


def _is_small(value) -> bool:
    return torch.is_tensor(value) and not value.is_floating_point()
