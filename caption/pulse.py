"""Pulse: what a worker says of itself once a second: its stage, the seconds it spent in each, and how far it got."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from caption.channel import ChildChannel
from caption.loaderpool import InlineLoader, LoaderPool
from caption.messages import Stats

STATS_EVERY = 1.0  # seconds


class Pulse:
    """Args:
        channel: to the coordinator.
        slots: tells how many images the engine has side by side, as far as it knows by now.

    Attributes:
        stage: as in messages.Stats.
        steps: of the engine so far.
    """

    def __init__(self, channel: ChildChannel, slots: Callable[[], int]):
        self._channel, self._slots = channel, slots
        self.stage, self._since = "loading", time.monotonic()
        self._seconds = dict.fromkeys(("loading", "waiting", "preprocessing", "generating", "starved", "late"), 0.0)
        self._waited = 0.0  # up to the latest time that it began to wait
        self.steps = 0
        self._loaders: InlineLoader | LoaderPool | None = None

    def start(self, loaders: InlineLoader | LoaderPool) -> None:
        """From now on it beats. loaders: their steps count too."""
        self._loaders = loaders
        threading.Thread(target=self._beat, name="stats", daemon=True).start()

    def enter(self, stage: str) -> None:
        now = time.monotonic()
        if stage == "waiting" != self.stage:
            self._waited = self._seconds["waiting"]
        self._seconds[self.stage] += now - self._since
        self.stage, self._since = stage, now

    def starved(self, seconds: float) -> None:
        """That part of "generating" in which there was nothing to put into the empty slots."""
        self._seconds["starved"] += seconds

    def late(self, seconds: float) -> None:
        """That part of "generating" in which the device had nothing to do, as the host came late with the next work."""
        self._seconds["late"] += seconds

    def stats(self) -> Stats:
        seconds, stage, since = dict(self._seconds), self.stage, self._since
        seconds[stage] += time.monotonic() - since
        steps = _megabytes_read() if stage == "loading" else self.steps + self._loaders.steps
        return Stats(stage, seconds, steps, self._slots())

    def last_stats(self) -> Stats:
        """What it waited last was not for work but for the end."""
        stats = self.stats()
        if stats.stage == "waiting":
            stats.seconds["ending"] = stats.seconds["waiting"] - self._waited
            stats.seconds["waiting"] = self._waited
        return stats

    def _beat(self) -> None:
        with contextlib.suppress(EOFError):  # the worker's listener hears of that, too, and ends the process
            while True:
                time.sleep(STATS_EVERY)
                self._channel.send(self.stats())


def _megabytes_read() -> int:
    """By this process: a model that is still being read is not stuck, however slow the disk."""
    import psutil

    try:
        counters = psutil.Process().io_counters()
    except (psutil.Error, AttributeError):  # macOS has no such figure
        return 0
    return (counters.read_bytes + getattr(counters, "read_chars", 0)) >> 20
