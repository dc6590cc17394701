"""Monitor: load and memory of this machine and of the GPUs in use."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from caption.devices import Seat

_LOOK_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class GpuLoad:
    """Attributes:
    use: percent of the time in which it computed.
    used, total: bytes of memory.
    celsius: its temperature.
    """

    use: int
    used: int
    total: int
    celsius: int


@dataclass(frozen=True)
class Load:
    """Attributes:
    cpu: percent of all cores.
    ram_used, ram_total: bytes.
    gpus: by UUID.
    """

    cpu: float
    ram_used: int
    ram_total: int
    gpus: dict[str, GpuLoad]

    def of(self, seat: Seat) -> GpuLoad | None:
        """Of a seat's GPUs together: the mean of their use, the sums of their memory, the highest temperature."""
        found = [self.gpus[uuid] for uuid in seat.visible.split(",") if uuid in self.gpus]
        if not found:
            return None
        return GpuLoad(
            use=round(sum(gpu.use for gpu in found) / len(found)),
            used=sum(gpu.used for gpu in found),
            total=sum(gpu.total for gpu in found),
            celsius=max(gpu.celsius for gpu in found),
        )


class Monitor:
    """Reads the figures on request; those of GPUs through NVML.

    A thread asks for the GPUs' once a second: a driver in trouble can take long to answer, or never do.
    """

    def __init__(self, seats: Sequence[Seat]):
        psutil.cpu_percent()  # the first call only starts the interval
        self._gpus: dict[str, GpuLoad] = {}
        visible = {uuid for seat in seats if seat.device == "cuda" for uuid in seat.visible.split(",")}
        if visible:
            threading.Thread(target=self._look_after, args=(visible,), name="monitor", daemon=True).start()

    def read(self) -> Load:
        memory = psutil.virtual_memory()
        return Load(psutil.cpu_percent(), memory.total - memory.available, memory.total, self._gpus)

    def _look_after(self, visible: set[str]) -> None:
        with contextlib.suppress(Exception):  # figures are a comfort: without a driver there are none
            import pynvml

            pynvml.nvmlInit()
            handles = {uuid: pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in visible}
            while True:
                loads = {}
                for uuid, handle in handles.items():
                    with contextlib.suppress(pynvml.NVMLError):  # a lost GPU shows as missing
                        loads[uuid] = _load_of(pynvml, handle)
                self._gpus = loads
                time.sleep(_LOOK_EVERY)


def _load_of(nvml: Any, handle: Any) -> GpuLoad:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return GpuLoad(
        use=nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        used=memory.used,
        total=memory.total,
        celsius=nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    )
