"""Devices: which GPUs there are and which of them a run takes; without torch, so that the answer comes at once."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from dataclasses import dataclass

from caption.errors import UsageError
from caption.settings import Settings


@dataclass(frozen=True)
class Gpu:
    """Attributes:
    number: as the user counts, within CUDA_VISIBLE_DEVICES.
    visible: what CUDA_VISIBLE_DEVICES must be for this one alone.
    free, total: bytes of memory.
    """

    number: int
    visible: str
    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Seat:
    """Where one worker runs.

    Attributes:
        name: "gpu0", "cpu1": as bars, rows of statistics and messages show it.
        device: "cuda", "cpu" or "mps".
        visible: value of CUDA_VISIBLE_DEVICES for the worker; its GPU is device 0 there.
        threads: CPU threads of the model, or None for the library's default.
        loaders: processes that prepare ahead of it.
    """

    name: str
    device: str
    visible: str
    threads: int | None
    loaders: int


def visible_gpus() -> list[Gpu]:
    """The GPUs that the driver shows, in the order and selection of CUDA_VISIBLE_DEVICES; none without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, a driver that doesn't answer: there is no GPU to use
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        gpus = [(_text(pynvml.nvmlDeviceGetUUID(h)), _text(pynvml.nvmlDeviceGetName(h)),
                 pynvml.nvmlDeviceGetMemoryInfo(h)) for h in handles]  # fmt: skip
    except pynvml.NVMLError:
        return []
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    chosen = _chosen_by_environment([uuid for uuid, _, _ in gpus])
    return [
        Gpu(number, gpus[index][0], gpus[index][1], gpus[index][2].free, gpus[index][2].total)
        for number, index in enumerate(chosen)
    ]


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


def choose_seats(settings: Settings) -> list[Seat]:
    """The seats of a run, one a worker.

    Raises:
        UsageError: a GPU was asked for that is not there.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = visible_gpus() if settings.device in ("auto", "cuda") else []
    if settings.device == "cuda" and not gpus:
        raise UsageError(
            "--device cuda: no GPU answers", "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"
        )
    if gpus:
        chosen = _choose(gpus, settings)
        loaders = settings.loaders or max(1, min(24, cores // len(chosen) - 2))
        return [Seat(f"gpu{gpu.number}", "cuda", gpu.visible, None, loaders) for gpu in chosen]
    if settings.gpus not in ("all", "free") or settings.num_gpus:
        option = "--num-gpus" if settings.num_gpus else "--gpus"
        raise UsageError(f"{option}: no GPU answers", f"check nvidia-smi, or leave {option} out")
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    if settings.device == "mps" and not apple:
        raise UsageError("--device mps: this is no Mac with Apple silicon", "leave --device out")
    if settings.device == "mps" or (settings.device == "auto" and apple):
        return [Seat("mps", "mps", "", None, settings.loaders or max(1, min(4, cores // 2)))]
    threads = max(1, cores // settings.workers)
    loaders = settings.loaders or max(1, min(4, cores // (2 * settings.workers)))
    return [Seat(f"cpu{number}", "cpu", "", threads, loaders) for number in range(settings.workers)]


def _choose(gpus: list[Gpu], settings: Settings) -> list[Gpu]:
    if settings.gpus == "free":
        gpus = sorted(gpus, key=lambda gpu: -gpu.free)
    elif settings.gpus != "all":
        known = {gpu.number: gpu for gpu in gpus}
        try:
            numbers = list(dict.fromkeys(int(part) for part in settings.gpus.split(",")))
        except ValueError:
            raise UsageError(
                f"--gpus {settings.gpus}: neither all, free nor numbers", "for example --gpus 0,2"
            ) from None
        for number in numbers:
            if number not in known:
                raise UsageError(f"--gpus {settings.gpus}: there is no GPU {number}", f"there are GPUs {_list(known)}")
        gpus = [known[number] for number in numbers]
    if settings.num_gpus and settings.num_gpus > len(gpus):
        raise UsageError(f"--num-gpus {settings.num_gpus}: there are only {len(gpus)}", "ask for fewer")
    return gpus[: settings.num_gpus]


def _list(numbers) -> str:
    return ", ".join(map(str, numbers))
