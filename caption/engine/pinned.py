"""Memory that a GPU copies from by itself, while the host goes on."""

import sys

import numpy as np


def lock_pages(memory: np.ndarray) -> bool:
    """Keep memory where it is, so that a copy from it needs no copy before it. Where that is refused, copies wait.

    False: not yet, as torch does not use the GPU yet.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return False
    cuda.cudart().cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)
    return True
