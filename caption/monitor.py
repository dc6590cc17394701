"""Monitor: load and memory of this machine, of the workers and of the GPUs in use. Asking it never waits or fails."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from caption.devices import Seat
from caption.ram import ram
from caption.snapshot import WorkerSnapshot

_EVERY = 1.0  # seconds between readings
_STALE = 10.0  # seconds after which a reading says nothing of the present
_HOT = 0x20 | 0x40  # of NVML's reasons to throttle: slowed by its software and by its hardware, for heat
_BEFORE_WORKERS = 2.0  # seconds in which no worker has taken memory of its GPU yet


@dataclass(frozen=True)
class GpuLoad:
    """Each is None where the driver does not say.

    Attributes:
        use: percent of the time in which it computed.
        used, total: bytes of memory.
        celsius, slow_celsius: its temperature, and the one at which it slows itself down.
        slowed: it is slower than it could be, because it is hot.
        others: bytes of its memory that other processes than the worker hold; 0: nobody else.
    """

    use: int | None = None
    used: int | None = None
    total: int | None = None
    celsius: int | None = None
    slow_celsius: int | None = None
    slowed: bool | None = None
    others: int | None = None


@dataclass(frozen=True)
class ProcessLoad:
    """Attributes:
    cpu: percent of one core; two busy cores are 200.
    ram: bytes.
    """

    cpu: float
    ram: int


@dataclass(frozen=True)
class MachineLoad:
    """Attributes:
    cpu: percent of all cores.
    ram_used, ram_total: bytes; of the limit, where there is one.
    disk_free: bytes that this user can still write into OUT.
    workers: by the name of the seat.
    """

    cpu: float
    ram_used: int
    ram_total: int
    disk_free: int
    workers: Mapping[str, ProcessLoad] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """Attributes:
    machine: None if it can't be read.
    gpus: by UUID; those that answer.
    """

    machine: MachineLoad | None = None
    gpus: Mapping[str, GpuLoad] = field(default_factory=dict)

    def of_gpus(self, worker: WorkerSnapshot) -> GpuLoad | None:
        """Of all that its model is spread over: mean use, all memory, the highest temperature. None: none answers."""
        found = [self.gpus[uuid] for uuid in worker.gpus if uuid in self.gpus]
        if len(found) < 2:
            return found[0] if found else None
        use, used, total, celsius = (
            [value for gpu in found if (value := getattr(gpu, name)) is not None]
            for name in ("use", "used", "total", "celsius")
        )
        return GpuLoad(
            use=round(sum(use) / len(use)) if use else None,
            used=sum(used) if used else None,
            total=sum(total) if total else None,
            celsius=max(celsius, default=None),
        )

    def and_those_of(self, workers: Sequence[WorkerSnapshot]) -> Load:
        """This and what is known of workers on other machines."""
        if not workers or not self.machine:
            return self
        processes, gpus = dict(self.machine.workers), dict(self.gpus)
        for worker in workers:
            gpus |= worker.load.gpus
            if (there := worker.load.machine) and "" in there.workers:
                processes[worker.name] = there.workers[""]
        return Load(replace(self.machine, workers=processes), gpus)


class Monitor:
    """Reads once a second, the machine and the GPUs each in a thread of their own: a driver or disk that hangs holds up
    nothing but its own figures.

    Args:
        seats: whose GPUs are watched.
        out: the folder whose disk is watched.
        nvml: the module that reads GPUs; pynvml, if it is there.
    """

    def __init__(self, seats: Sequence[Seat], out: Path, nvml=None):
        self._workers: Sequence[WorkerSnapshot] = ()
        uuids = {uuid for seat in seats for uuid in seat.visible.split(",") if uuid}
        self._machine = _Reader(_Machine(out, lambda: self._workers).read)
        self._gpus = _Reader(_Gpus(uuids, lambda: self._workers, nvml).read) if uuids else None

    def read(self, workers: Sequence[WorkerSnapshot]) -> Load:
        """The newest figures. workers: as they are at this moment."""
        self._workers = workers
        gpus = self._gpus.newest if self._gpus else None
        load = Load(self._machine.newest, gpus or {})
        return load.and_those_of([worker for worker in workers if worker.load])

    def close(self) -> None:
        for reader in filter(None, (self._machine, self._gpus)):
            reader.stop()


class _Reader:
    """Calls ``read`` again and again, and keeps what it gave last."""

    def __init__(self, read: Callable[[], object]):
        self._read, self._found = read, None
        self._stopped = threading.Event()
        threading.Thread(target=self._work, name="monitor", daemon=True).start()

    @property
    def newest(self):
        """None if there is none, or it is old."""
        found = self._found
        return found[1] if found and time.monotonic() - found[0] < _STALE else None

    def stop(self) -> None:
        self._stopped.set()

    def _work(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(Exception):  # figures are a comfort: a run goes on without them
                self._found = time.monotonic(), self._read()
            self._stopped.wait(_EVERY)


class _Machine:
    def __init__(self, out: Path, workers: Callable[[], Sequence[WorkerSnapshot]]):
        self._out, self._workers = out, workers
        self._processes: dict[int, psutil.Process] = {}
        psutil.cpu_percent()  # the first call only starts the interval

    def read(self) -> MachineLoad:
        workers = {}
        pids = {worker.name: worker.pid for worker in self._workers() if worker.pid}
        for name, pid in pids.items():
            with contextlib.suppress(psutil.Error):  # it has just ended
                process = self._processes.setdefault(pid, psutil.Process(pid))
                workers[name] = ProcessLoad(process.cpu_percent(), process.memory_info().rss)
        self._processes = {pid: self._processes[pid] for pid in pids.values() if pid in self._processes}
        return MachineLoad(psutil.cpu_percent(), *ram(), shutil.disk_usage(self._out).free, workers)


class _Gpus:
    """GPUs through NVML, by UUID."""

    def __init__(self, uuids: Collection[str], workers: Callable[[], Sequence[WorkerSnapshot]], nvml):
        self._uuids, self._workers, self._nvml = uuids, workers, nvml
        self._handles: dict[str, object] = {}
        self._slow: dict[str, int | None] = {}
        self._held_before: dict[str, int] = {}  # bytes that were taken before our workers came
        self._begin = time.monotonic()

    def read(self) -> dict[str, GpuLoad]:
        if not self._handles:
            self._open()
        return {uuid: self._look(uuid, handle) for uuid, handle in self._handles.items()}

    def _open(self) -> None:
        if self._nvml is None:
            import pynvml

            self._nvml = pynvml
        nvml = self._nvml
        nvml.nvmlInit()
        for uuid in self._uuids:
            with contextlib.suppress(nvml.NVMLError):  # a lost GPU shows as missing, the others as they are
                self._handles[uuid] = handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
                threshold = "NVML_TEMPERATURE_THRESHOLD_SLOWDOWN"
                self._slow[uuid] = self._ask("nvmlDeviceGetTemperatureThreshold", handle, threshold)

    def _ask(self, function: str, handle: object, *constants: str):
        """None where this GPU, its driver or this version of pynvml has no answer."""
        try:
            return getattr(self._nvml, function)(handle, *(getattr(self._nvml, name) for name in constants))
        except (self._nvml.NVMLError, AttributeError, TypeError):
            return None

    def _look(self, uuid: str, handle: object) -> GpuLoad:
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        if memory and time.monotonic() - self._begin < _BEFORE_WORKERS:  # a worker killed just now frees its own late
            self._held_before[uuid] = min(memory.used, self._held_before.get(uuid, memory.used))
        use = self._ask("nvmlDeviceGetUtilizationRates", handle)
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return GpuLoad(
            use=use and use.gpu,
            used=memory and memory.used,
            total=memory and memory.total,
            celsius=self._ask("nvmlDeviceGetTemperature", handle, "NVML_TEMPERATURE_GPU"),
            slow_celsius=self._slow.get(uuid),
            slowed=None if reasons is None else bool(reasons & _HOT),
            others=self._others(uuid, handle),
        )

    def _others(self, uuid: str, handle: object) -> int | None:
        """Bytes that others hold: as the driver lists them; else, what was taken before our workers came counts too."""
        before = self._held_before.get(uuid)
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses", handle)
        if processes is None:
            return before
        ours = {worker.pid for worker in self._workers() if uuid in worker.gpus and worker.pid}
        held = sorted(process.usedGpuMemory or 0 for process in processes if process.pid not in ours)
        if len(held) < len(processes):
            return sum(held)
        # Not there yet; or they are, and the driver counts processes otherwise than this container does.
        return max(sum(held[: -max(1, len(ours))]), before or 0)
