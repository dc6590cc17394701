"""Monitor: load and memory of this machine and of the GPUs in use."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from caption.devices import Seat


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
    gpus: by the name of the seat.
    """

    cpu: float
    ram_used: int
    ram_total: int
    gpus: dict[str, GpuLoad]


class Monitor:
    """Reads the figures on request; GPUs through NVML, by the UUID in the seat."""

    def __init__(self, seats: Sequence[Seat]):
        self._handles = {}
        psutil.cpu_percent()  # the first call only starts the interval
        visible = {seat.name: seat.visible for seat in seats if seat.device == "cuda"}
        if visible:
            with contextlib.suppress(Exception):  # figures are a comfort: without a driver there are none
                import pynvml

                pynvml.nvmlInit()
                self._nvml = pynvml
                self._handles = {name: pynvml.nvmlDeviceGetHandleByUUID(uuid) for name, uuid in visible.items()}

    def read(self) -> Load:
        memory = psutil.virtual_memory()
        gpus = {}
        for name, handle in self._handles.items():
            with contextlib.suppress(self._nvml.NVMLError):  # a lost GPU shows as missing
                used = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                gpus[name] = GpuLoad(
                    use=self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
                    used=used.used,
                    total=used.total,
                    celsius=self._nvml.nvmlDeviceGetTemperature(handle, self._nvml.NVML_TEMPERATURE_GPU),
                )
        return Load(psutil.cpu_percent(), memory.total - memory.available, memory.total, gpus)
