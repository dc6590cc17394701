"""What can be wrong with a model, and what kind of trouble an exception of the engine is.

ModelError                  one sentence for the user; nothing to retry
├── NotFound                the folder, its config or its weights are not there
├── NeedsRemoteCode         the checkpoint brings its own Python code (--trust-remote-code)
├── NoSafetensors           its weights are pickle files (--allow-pickled-weights)
├── NotAVisionModel         it does not make text from a picture
├── DoesNotFit              the LoRA adapter belongs to another model, or is damaged
└── DoesNotLoad             it is there, but cannot be loaded whole
"""

import re
import sys


class ModelError(Exception):
    """The model cannot be used; the message is one sentence that says why and what to do."""


class NotFound(ModelError):
    """The folder, its config.json or its weights are missing."""


class NeedsRemoteCode(ModelError):
    """The checkpoint needs Python code of its own, and that was not allowed."""


class NoSafetensors(ModelError):
    """The checkpoint has pickled weights only, and those were not allowed."""


class NotAVisionModel(ModelError):
    """The model takes no picture or writes no text."""


class DoesNotFit(ModelError):
    """The adapter can't be put into this model."""


class DoesNotLoad(ModelError):
    """The checkpoint is damaged, incomplete or of a kind that this version of transformers does not know."""


MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED", re.IGNORECASE)
DEVICE = re.compile(
    r"CUDA error|device-side assert|illegal memory access|unspecified launch failure|CUDNN_STATUS|CUBLAS_STATUS"
    r"|NCCL error|ECC error|HIP error|MPS backend|No CUDA GPUs are available|CUDA unknown error"
    r"|CUDA driver initialization failed|fallen off the bus|GPU is lost",
    re.IGNORECASE,
)


def classify(exception: BaseException) -> str:
    """Say what an exception out of the engine means for the process.

    - "memory": out of GPU or host memory; the same work in smaller groups can succeed in the same process
    - "device": the device is in a sticky error state; the process must be replaced
    - "model": a ModelError; no retry helps
    - "item": anything else; one of the items at hand is the likely cause

    Imports nothing: an exception of torch can only exist where torch has been imported.
    """
    if isinstance(exception, ModelError):
        return "model"
    torch = sys.modules.get("torch")
    # OutOfMemoryError first: it is a RuntimeError too, and newer ones share a base with AcceleratorError.
    if isinstance(exception, (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))):
        return "memory"
    text = str(exception) if isinstance(exception, RuntimeError) else ""
    if MEMORY.search(text):
        return "memory"
    if isinstance(exception, getattr(torch, "AcceleratorError", ())) or DEVICE.search(text):
        return "device"
    return "item"


def in_words(exception: BaseException) -> str:
    """What an exception out of the engine says, without torch's advice to programmers."""
    words = f"{type(exception).__name__}: {exception}"
    for advice in (" Including non-PyTorch memory", "\nCUDA kernel errors might be", "\nSearch for `cuda"):
        words = words.partition(advice)[0]
    return words
