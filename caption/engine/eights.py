"""Eight bytes as one number: torch copies what does not lie together number by number, small ones at half the rate."""

import torch


def in_eights(states: torch.Tensor) -> torch.Tensor:
    """A view of the same memory as int64, [..., size / n], if each row of the last dimension lies together and begins
    and ends with such a number; else the states themselves."""
    together = 8 // states.element_size()
    figures = (states.shape[-1], states.storage_offset(), *states.stride()[:-1])
    if states.stride(-1) != 1 or any(figure % together for figure in figures):
        return states
    return states.view(torch.int64)
