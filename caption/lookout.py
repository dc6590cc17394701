"""Lookout: takes how a run stands and passes it on to all that show it, write it down or warn of it."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from caption.alarms import Alarms
from caption.devices import Seat
from caption.log import note
from caption.metrics import Metrics
from caption.monitor import Monitor
from caption.progress import Progress, line
from caption.settings import Settings
from caption.snapshot import Snapshot, WorkerSnapshot
from caption.statsfile import StatsFile

_LOOK_EVERY = 0.2  # seconds
_LINE_EVERY = 60.0  # seconds between lines of progress in the log
_RATE_SPAN = 60.0  # seconds over which the shown rates are measured


class Rate:
    """How fast a count grows: a second, over the last minute, or since the first time if that is less."""

    def __init__(self):
        self._points: deque[tuple[float, float]] = deque()

    def add(self, now: float, count: float) -> float:
        """Notes that the count has come to ``count`` at the time ``now``; returns the rate."""
        if not self._points or now - self._points[-1][0] >= 1 or len(self._points) < 2:
            self._points.append((now, count))
        else:
            self._points[-1] = (now, count)  # a point a second is enough
        while now - self._points[0][0] > _RATE_SPAN and len(self._points) > 2:
            self._points.popleft()
        seconds = now - self._points[0][0]
        return (count - self._points[0][1]) / seconds if seconds > 0 else 0.0


class Lookout:
    """Args:
    seats: of the run.
    run: number of the run in this folder, from 1.
    metrics: to be served, if they are.
    """

    def __init__(self, settings: Settings, seats: Sequence[Seat], run: int, metrics: Metrics | None = None):
        out = Path(settings.output)
        self._progress = Progress(sys.stderr)
        self._alarms = Alarms(settings.output, seats[0].loaders)
        self._metrics = metrics
        self._states: dict[str, str] = {}
        self._stats = StatsFile(out, run, settings.stats_every)
        self._monitor = Monitor(seats, out)
        self._all, self._pace = Rate(), Rate()
        self._images: dict[str, Rate] = defaultdict(Rate)
        self._late: dict[str, Rate] = defaultdict(Rate)
        self._next_look = self._next_line = 0.0

    def look(self, make: Callable[[], Snapshot], last: bool = False) -> None:
        """Passes the newest figures on, a few times a second, however often it is called.

        make: called for them when they are wanted.
        last: these are the last figures, wanted in any case.
        """
        now = time.monotonic()
        if now < self._next_look and not last:
            return
        self._next_look = now + _LOOK_EVERY
        snapshot = dataclasses.replace(self._with_rates(make(), now), ended=last)
        load = self._monitor.read(snapshot.workers)
        if last or self._stats.due(snapshot.images):
            self._stats.add(snapshot, load)
        if self._metrics:
            self._metrics.show(snapshot, load)
        for sentence in self._alarms.look(snapshot, load, now):
            self.say(sentence, logging.WARNING)
        self._log(snapshot, now, last)
        self._progress.show(snapshot, load, last)

    def say(self, text: str, level: int = logging.INFO) -> None:
        """A sentence for the user, while the run goes on."""
        self._progress.say(text)
        note(text, level=level)

    def announce(self, text: str) -> None:
        """A line of the banner."""
        self._progress.announce(text)

    def _log(self, snapshot: Snapshot, now: float, last: bool) -> None:
        for worker in snapshot.workers:
            if self._states.get(worker.name) != worker.state:
                self._states[worker.name] = worker.state
                process = f", process {worker.pid}" if worker.pid else ""
                note(f"{worker.state}{process}", worker.name)
        if last or now >= self._next_line:
            self._next_line = now + _LINE_EVERY
            note(
                line(snapshot), images=snapshot.before + snapshot.images, total=snapshot.total, failed=snapshot.failed,
                flagged=snapshot.flagged, images_per_second=round(snapshot.rate, 3),
            )  # fmt: skip

    def close(self) -> None:
        self._monitor.close()
        self._stats.close()
        self._progress.close()

    def _with_rates(self, snapshot: Snapshot, now: float) -> Snapshot:
        if not snapshot.seconds:  # nobody has begun: the loading of the model is no part of a rate
            return snapshot
        workers = [self._worker_with_rates(worker, now) for worker in snapshot.workers]
        minute = self._all.add(now, snapshot.images)
        rate = minute if snapshot.seconds > _RATE_SPAN else snapshot.whole_rate
        # Engines that fill at the beginning end nothing, though they work: that says nothing of what is to come.
        pace = self._pace.add(now, snapshot.images) if snapshot.images else 0.0
        return dataclasses.replace(snapshot, workers=workers, rate=rate, pace=pace)

    def _worker_with_rates(self, worker: WorkerSnapshot, now: float) -> WorkerSnapshot:
        waited = worker.seconds.get("preprocessing", 0.0) + worker.seconds.get("starved", 0.0)
        late = min(1.0, self._late[worker.name].add(now, waited))
        rate = self._images[worker.name].add(now, worker.done + worker.failed)
        return dataclasses.replace(worker, rate=rate, late=late)
