"""Memory that a GPU copies from by itself, while the host goes on."""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a worker reads this file before it loads torch
    import torch


def lock_pages(memory: np.ndarray) -> bool:
    """Keep memory where it is, so that a copy from it needs no copy before it. Where that is refused, copies wait.

    It is undone when the array is let go: else the driver takes its addresses for its own still, and `cudaMalloc` fails
    with "resource already mapped" where they have been given to something else since.

    False: not yet, as torch does not use the GPU yet.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return False
    driver = cuda.cudart()
    if driver.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0) == driver.cudaError.success:
        weakref.finalize(memory, driver.cudaHostUnregister, memory.ctypes.data).atexit = False
    return True


def send(figures: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same on the device, without a wait for what that has to do before."""
    return figures.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else figures.to(device)
