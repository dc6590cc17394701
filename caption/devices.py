"""Devices: which GPUs a run takes, and a seat for each of its workers."""

from __future__ import annotations

import itertools
import os
import platform
import sys
from dataclasses import dataclass

from caption.console import say
from caption.errors import UsageError
from caption.gpus import Gpu, visible_gpus
from caption.settings import Settings

_LEAST_FREE = 1 << 30  # bytes; with less a GPU is full: CUDA itself takes half of that before any model


@dataclass(frozen=True)
class Seat:
    """Where one worker runs.

    Attributes:
        name: "gpu0", "cpu1", "gpu0.2" for the second on one GPU: as bars, rows of statistics and messages show it.
        device: "cuda", "cpu" or "mps".
        visible: value of CUDA_VISIBLE_DEVICES for the worker; its GPU is device 0 there, or its GPUs 0, 1, ….
        threads: CPU threads of the model, or None for the library's default.
        loaders: processes that prepare ahead of it.
        memory_share: the part of its GPU's memory that it may take.
        gpus: how many its model is spread over.
        host: the node of a cluster; "" is this machine.
    """

    name: str
    device: str
    visible: str
    threads: int | None
    loaders: int
    memory_share: float = 1.0
    gpus: int = 1
    host: str = ""


def choose_seats(settings: Settings) -> list[Seat]:
    """The seats of a run, one a worker.

    Raises:
        UsageError: a GPU was asked for that is not there, or is full.
        NoWorkerLeft: the GPUs' driver does not answer.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = visible_gpus() if settings.device in ("auto", "cuda") else []
    if settings.device == "cuda" and not gpus:
        raise UsageError(
            "--device cuda: no GPU answers", "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"
        )
    if gpus:
        chosen = _choose(gpus, settings)
        if settings.workers_per_gpu is None and settings.schedule != "dynamic":
            raise UsageError(
                f"--workers-per-gpu auto: the {settings.schedule} schedule needs to know all workers before",
                "use --schedule dynamic, or say how many",
            )
        make_seats = _gpu_seats if settings.gpus_per_worker == 1 else _wide_seats
        return make_seats(chosen, settings, cores)
    asked = {"--num-gpus": settings.num_gpus, "--gpus": settings.gpus not in ("all", "free"),
             "--workers-per-gpu": settings.workers_per_gpu != 1,
             "--gpus-per-worker": settings.gpus_per_worker > 1}  # fmt: skip
    for option in (option for option, given in asked.items() if given):
        raise UsageError(f"{option}: no GPU answers", f"check nvidia-smi, or leave {option} out")
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    if settings.device == "mps" and not apple:
        raise UsageError("--device mps: this is no Mac with Apple silicon", "leave --device out")
    if settings.device == "mps" or (settings.device == "auto" and apple):
        return [Seat("mps", "mps", "", None, settings.loaders or max(1, min(4, cores // 2)))]
    threads = max(1, cores // settings.workers)
    loaders = settings.loaders or max(1, min(4, cores // (2 * settings.workers)))
    return [Seat(f"cpu{number}", "cpu", "", threads, loaders) for number in range(settings.workers)]


def _gpu_seats(gpus: list[Gpu], settings: Settings, cores: int) -> list[Seat]:
    """Workers on one GPU share what is free of its memory. First comes one on each GPU, then the second ones; where
    their number is found out in the run, one each to begin with."""
    each = settings.workers_per_gpu or 1
    at_a_time = len(gpus) * (settings.workers_per_gpu or 2)
    loaders = settings.loaders or max(1, min(24, cores // at_a_time - 2))
    return [
        Seat(
            f"gpu{gpu.number}" + (f".{number}" if number > 1 else ""),
            "cuda",
            gpu.visible,
            None,
            loaders,
            gpu.free / gpu.total / each if each > 1 else 1.0,
        )
        for number, gpu in itertools.product(range(1, each + 1), gpus)
    ]


def _wide_seats(gpus: list[Gpu], settings: Settings, cores: int) -> list[Seat]:
    """A worker on each group of GPUs, as they follow each other."""
    size, option = settings.gpus_per_worker, f"--gpus-per-worker {settings.gpus_per_worker}"
    if settings.workers_per_gpu != 1:
        raise UsageError(f"{option}: a model on several GPUs shares none of them", "leave --workers-per-gpu out")
    if len(gpus) < size:
        raise UsageError(f"{option}: there are only {len(gpus)} GPUs to use", "ask for fewer")
    groups = [gpus[start : start + size] for start in range(0, len(gpus) - size + 1, size)]
    if over := gpus[len(groups) * size :]:
        numbers = ", ".join(str(gpu.number) for gpu in over)
        say(f"GPU {numbers} is left out: {option} leaves {len(over)} over.")
    loaders = settings.loaders or max(1, min(24, cores // len(groups) - 2))
    return [
        Seat(
            "gpu" + "+".join(str(gpu.number) for gpu in group),
            "cuda",
            ",".join(gpu.visible for gpu in group),
            None,
            loaders,
            gpus=size,
        )
        for group in groups
    ]


def _choose(gpus: list[Gpu], settings: Settings) -> list[Gpu]:
    if settings.gpus in ("all", "free"):
        for gpu in gpus:
            if trouble := _trouble(gpu):
                say(f"GPU {gpu.number} is left out: {trouble}.")
        gpus = [gpu for gpu in gpus if not _trouble(gpu)]
        if settings.gpus == "free":
            gpus = sorted(gpus, key=lambda gpu: -gpu.free)
        if not gpus:
            raise UsageError("no GPU can be used", "end what fills them (nvidia-smi shows it), or use --device cpu")
    else:
        gpus = _listed(gpus, settings.gpus)
    if settings.num_gpus and settings.num_gpus > len(gpus):
        raise UsageError(f"--num-gpus {settings.num_gpus}: there are only {len(gpus)}", "ask for fewer")
    return gpus[: settings.num_gpus]


def _listed(gpus: list[Gpu], numbers: str) -> list[Gpu]:
    known, option = {gpu.number: gpu for gpu in gpus}, f"--gpus {numbers}"
    try:
        chosen = list(dict.fromkeys(int(part) for part in numbers.split(",")))
    except ValueError:
        raise UsageError(f"{option}: neither all, free nor numbers", "for example --gpus 0,2") from None
    for number in chosen:
        if number not in known:
            raise UsageError(f"{option}: there is no GPU {number}", f"there are GPUs {', '.join(map(str, known))}")
        if trouble := _trouble(known[number]):
            raise UsageError(f"{option}: GPU {number} can't be used, {trouble}", "choose others, or --gpus free")
    return [known[number] for number in chosen]


def _trouble(gpu: Gpu) -> str:
    if gpu.trouble or gpu.free >= _LEAST_FREE:
        return gpu.trouble
    return f"of its {gpu.total / 2**30:.1f} GiB of memory only {gpu.free / 2**30:.1f} are free"
