"""Gpus: what the driver says of the GPUs of this machine; without torch, so that the answer comes at once.

A driver can hang, and then no call into it comes back: each is made in a thread that is left behind if it takes long.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from caption.errors import NoWorkerLeft

_PATIENCE = 30.0  # seconds; a machine with eight GPUs whose driver sleeps takes some ten to wake it


@dataclass(frozen=True)
class Gpu:
    """Attributes:
    number: as the user counts, within CUDA_VISIBLE_DEVICES.
    visible: what CUDA_VISIBLE_DEVICES must be for this one alone.
    free, total: bytes of memory.
    trouble: why it can't be used, or "".
    """

    number: int
    visible: str
    name: str
    free: int
    total: int
    trouble: str = ""


def visible_gpus() -> list[Gpu]:
    """The GPUs that the driver shows, in the order and selection of CUDA_VISIBLE_DEVICES; none without a driver.

    Raises:
        NoWorkerLeft: there is a driver, and it does not answer.
    """
    remedy = "see what nvidia-smi says, or use --device cpu"
    try:
        gpus = _within(_PATIENCE, _ask)
    except TimeoutError:
        raise NoWorkerLeft(f"the GPU driver has not answered for {_PATIENCE:g} s", remedy) from None
    except Exception as error:
        raise NoWorkerLeft(f"the GPU driver does not answer ({error})", remedy) from error
    return [Gpu(number, *gpus[index]) for number, index in enumerate(_chosen_by_environment([gpu[0] for gpu in gpus]))]


def is_lost(visible: str) -> bool:
    """Whether the driver knows for sure that a GPU is gone. visible: UUIDs, with commas between, of which it is one."""
    uuids = visible.split(",")
    with contextlib.suppress(Exception):  # also a driver that hangs: that is no certainty
        return _within(_PATIENCE / 6, lambda: _asks(lambda nvml: any(_is_lost(nvml, uuid) for uuid in uuids)))
    return False


def free_memory(visible: str) -> tuple[int, int] | None:
    """Free and total bytes of the GPU with this UUID; None if its driver does not say."""
    with contextlib.suppress(Exception):
        return _within(_PATIENCE / 6, lambda: _asks(lambda nvml: _memory(nvml, visible)))
    return None


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What the call returns or raises. Raises TimeoutError when it has not come back in time."""
    answer: list[tuple[Any, Exception | None]] = []

    def run() -> None:
        try:
            answer.append((call(), None))
        except Exception as error:
            answer.append((None, error))

    thread = threading.Thread(target=run, name="driver", daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise TimeoutError
    [(result, error)] = answer
    if error:
        raise error
    return result


def _asks(question: Callable[[Any], Any]) -> Any:
    import pynvml

    pynvml.nvmlInit()
    try:
        return question(pynvml)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _ask() -> list[tuple[str, str, int, int, str]]:
    """Of each GPU: UUID, name, free and total bytes, trouble."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        return _asks(lambda nvml: [_describe(nvml, index) for index in range(nvml.nvmlDeviceGetCount())])
    except pynvml.NVMLError as error:
        if error.value in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
            return []  # no driver, no GPU
        raise


def _describe(nvml: Any, index: int) -> tuple[str, str, int, int, str]:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    except nvml.NVMLError as error:  # one that is lost must not hide the others
        return "", "", 0, 0, f"it does not answer ({error})"
    return _text(uuid), _text(name), memory.free, memory.total, ""


def _memory(nvml: Any, uuid: str) -> tuple[int, int]:
    memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid))
    return memory.free, memory.total


def _is_lost(nvml: Any, uuid: str) -> bool:
    try:
        _memory(nvml, uuid)
    except nvml.NVMLError as error:
        return error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_NOT_FOUND)
    return False


def _chosen_by_environment(uuids: list[str]) -> list[int]:
    """Indices into the driver's list, by CUDA's rule: the selection ends at the first entry that names no GPU."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return list(range(len(uuids)))
    chosen: list[int] = []
    for entry in filter(None, (part.strip() for part in wanted.split(","))):
        if entry.isdigit() and int(entry) < len(uuids):
            index = int(entry)
        else:
            matches = [i for i, uuid in enumerate(uuids) if uuid.startswith(entry)]
            if len(matches) != 1:
                break
            index = matches[0]
        if index in chosen:
            break
        chosen.append(index)
    return chosen


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
