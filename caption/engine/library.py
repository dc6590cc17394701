"""How transformers is brought into a process: quiet, and without torch where nothing is computed."""

import contextlib
import gc
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

from caption.engine.errors import DoesNotLoad

T = TypeVar("T")


def quiet() -> None:
    """Keep transformers' warnings and progress bars off the user's terminal; errors are raised, not printed."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process's share of the CPU is the coordinator's business
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # read once, when transformers is imported
    warnings.filterwarnings("ignore", module=r"(transformers|torch|accelerate|peft)\b")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def import_all() -> None:
    """Import torch, and of transformers what loading any model needs."""
    with _lasting():
        quiet()
        import torch  # noqa: F401
        from transformers import AutoModelForImageTextToText, PreTrainedModel  # noqa: F401 (lazy modules load by name)


@contextlib.contextmanager
def _lasting() -> Iterator[None]:
    """What is made within it stays for good. Python's looks for garbage, each through all that modules have made so
    far, take a sixth of their import; and no later look goes through it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


HIDDEN = ("torch", "torchvision")


def hide_torch() -> bool:
    """Make transformers believe that torch is not installed. False where it is too late for that."""
    if not any(name in sys.modules for name in (*HIDDEN, "transformers")):
        sys.modules.update(dict.fromkeys(HIDDEN))  # find_spec and import both take None for "not there"
    return sys.modules.get("torch", ...) is None


def loaded(load: Callable[[], T], own_process: bool) -> T:
    """What ``load`` gives; in a process that will never compute without torch, where that is not too late.

    Some processors are written in torch: those pay for its import.
    """
    hidden = own_process and hide_torch()
    with _lasting() if own_process else contextlib.nullcontext():
        try:
            return load()
        except (DoesNotLoad, ImportError):
            if not hidden:
                raise
            show_torch()
            return load()


def show_torch() -> None:
    """Undo hide_torch, and forget the transformers that was imported without torch."""
    for name in HIDDEN:
        sys.modules.pop(name, None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        del sys.modules[name]
    importlib.invalidate_caches()
