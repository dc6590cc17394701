"""Timeline: ``stats.jsonl`` of all runs as a few hundred points, however long they took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from caption.report.folder import seconds_of

_MOST = 160  # bins


@dataclass
class Bin:
    """A stretch of time.

    Attributes:
        seconds: that were measured in it; images: done or failed in these.
        cpu, ram: sums of what was read, percent and share of 1; readings: how often.
        gpus: of each worker, its readings of use in percent.
    """

    seconds: float = 0.0
    images: float = 0.0
    cpu: float = 0.0
    ram: float = 0.0
    readings: int = 0
    gpus: dict[str, tuple[float, int]] = field(default_factory=dict)

    def join(self, other: Bin) -> None:
        for name in ("seconds", "images", "cpu", "ram", "readings"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, (total, count) in other.gpus.items():
            self.add_gpu(name, total, count)

    def add_gpu(self, name: str, percent: float, count: int = 1) -> None:
        before = self.gpus.get(name, (0.0, 0))
        self.gpus[name] = before[0] + percent, before[1] + count


@dataclass
class Worker:
    """What its GPU had at most: bytes of memory, degrees; and the sum and number of readings of its use."""

    memory: int = 0
    total: int = 0
    celsius: int = 0
    use: float = 0.0
    readings: int = 0


@dataclass
class Run:
    """One run, as far as ``stats.jsonl`` tells.

    Attributes:
        start: seconds of work in all runs before it.
        length: seconds from its begin to its last entry; working: since its first worker began.
        images: done or failed in it.
        stages: of each worker, its seconds by stage; see messages.Stats.
    """

    start: float = 0.0
    length: float = 0.0
    working: float = 0.0
    images: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)


class Timeline:
    """Time at work only: where one run ends the next begins, whatever lay between them.

    Args:
        path: a ``stats.jsonl``; lines of it that are none are passed over.
        runs: entries of ``run.json``, in their order.

    Attributes:
        bins: of equal ``width`` (seconds) from the begin of the first run.
        runs: what was found of each run, by its place in ``runs``.
        workers: those that have a GPU, by name.
    """

    def __init__(self, path: Path, runs: Sequence[dict[str, Any]]):
        self.bins: list[Bin] = []
        self.width = 1.0
        self.runs: dict[int, Run] = defaultdict(Run)
        self.workers: dict[str, Worker] = defaultdict(Worker)
        self._begins = [seconds_of(run.get("begin")) or 0.0 for run in runs]
        self._place = -1
        self._time = self._worked = 0.0
        self._images = 0
        try:
            with path.open("rb") as file:
                for line in file:
                    self._read(line)
        except OSError:
            pass  # a run that has only begun, or a copy without it

    @property
    def seconds(self) -> float:
        """All that was worked."""
        return self._worked

    @property
    def images(self) -> int:
        return sum(run.images for run in self.runs.values())

    def _read(self, line: bytes) -> None:
        try:
            row = orjson.loads(line)
            if "worker" in row:
                self._add_worker(row)
            elif "images" in row:
                self._add(row)
        except (ValueError, TypeError, KeyError):
            pass  # torn by a crash

    def _add(self, row: dict[str, Any]) -> None:
        time, images = float(row["time"]), int(row["images"])
        if self._begins_run(row, time, images):
            begun = self._begins[self._place] if 0 <= self._place < len(self._begins) else time
            self._time, self._images = begun, 0
            self.runs[self._place].start = self._worked
        passed = max(0.0, time - self._time)
        added = self._spread(passed, max(0, images - self._images))
        if row.get("cpu_percent") is not None and row.get("ram_total"):
            added.cpu += float(row["cpu_percent"])
            added.ram += row["ram_used"] / row["ram_total"]
            added.readings += 1
        self._time, self._images = time, images
        self._worked += passed
        run = self.runs[self._place]
        run.length, run.images = run.length + passed, images
        run.working = float(row.get("seconds") or run.length)

    def _begins_run(self, row: dict[str, Any], time: float, images: int) -> bool:
        """Moves on to the run of which this entry is, by its number, else by its time; True if it is its first."""
        place = self._place
        if isinstance(row.get("run"), int):
            self._place = row["run"] - 1
            return self._place != place
        while self._place + 1 < len(self._begins) and self._begins[self._place + 1] <= time:
            self._place += 1
        if self._place == place and (place < 0 or images < self._images):
            self._place += 1
        return self._place != place

    def _spread(self, seconds: float, images: int) -> Bin:
        """Puts them into the bins that the time passed covers; returns the last of these."""
        begin, end = self._worked, self._worked + seconds
        while end >= self.width * _MOST:
            self._halve()
        while len(self.bins) <= end // self.width:
            self.bins.append(Bin())
        first, last = int(begin // self.width), int(end // self.width)
        for place in range(first, last + 1):
            covered = min(end, (place + 1) * self.width) - max(begin, place * self.width)
            self.bins[place].seconds += covered
            self.bins[place].images += images * covered / seconds if seconds else images
        return self.bins[last]

    def _halve(self) -> None:
        """Half as many bins, twice as wide."""
        for place in range(0, len(self.bins) - 1, 2):
            self.bins[place].join(self.bins[place + 1])
        self.bins = self.bins[::2]
        self.width *= 2

    def _add_worker(self, row: dict[str, Any]) -> None:
        if not self.bins:
            return
        name = str(row["worker"])
        if isinstance(row.get("seconds"), dict):
            self.runs[self._place].stages[name] = row["seconds"]
        if (percent := row.get("gpu_percent")) is not None:
            self.bins[-1].add_gpu(name, float(percent))
            worker = self.workers[name]
            worker.use, worker.readings = worker.use + float(percent), worker.readings + 1
            worker.memory = max(worker.memory, row.get("gpu_memory_used") or 0)
            worker.total = max(worker.total, row.get("gpu_memory_total") or 0)
            worker.celsius = max(worker.celsius, row.get("gpu_celsius") or 0)
