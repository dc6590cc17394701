"""What a GPU makes of some work under load, and the power that it draws for it."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import pynvml
import torch

WARM = 0.2  # seconds of a loop that do not count
BATCH = 0.03  # seconds of work that are given to the GPU at a time; two are on their way


class Figures(NamedTuple):
    seconds: float  # of one run of the work
    watts: float
    clock: int  # MHz, at the end

    @property
    def joules(self) -> float:
        """Of one run."""
        return self.seconds * self.watts


class Meter:
    """Of the first GPU that torch sees."""

    def __init__(self):
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")

    def measured(self, work: Callable[[], object], seconds: float) -> Figures:
        """Run it for so many seconds and some more.

        From one change of the driver's count of energy to another, as that comes some ten times a second only. The GPU
        always has the next runs to do.
        """
        together = math.ceil(BATCH / self._once(work))
        begin, seen, runs, before = time.perf_counter(), self._joules(), 0, None
        first: tuple[float, float, int] | None = None  # when, joules, runs
        while True:
            for _ in range(together):
                work()
            runs, event = runs + together, torch.cuda.current_stream().record_event()
            if before:
                before.synchronize()
            before, now, joules = event, time.perf_counter(), self._joules()
            if joules != seen and now > begin + WARM:
                if first is None:
                    first = now, joules, runs
                elif now > first[0] + seconds:
                    break
            seen = joules
        clock, passed = pynvml.nvmlDeviceGetClockInfo(self._handle, pynvml.NVML_CLOCK_SM), now - first[0]
        torch.cuda.synchronize()
        return Figures(passed / (runs - first[2]), (joules - first[1]) / passed, clock)

    @staticmethod
    def _once(work: Callable[[], object]) -> float:
        """Seconds, about."""
        work()  # whatever is made at the first time
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / 3

    def _joules(self) -> float:
        """Used since the driver was loaded."""
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3
