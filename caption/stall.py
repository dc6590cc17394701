"""Stall: tells a worker that hangs from one that is slow or has nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from caption.awake import AwakeClock
from caption.messages import Stats
from caption.settings import Settings

ON_GPU, ON_CPU = 300.0, 3600.0  # seconds without progress, where nobody said how many: a step on a CPU can take minutes
_SILENCE = 300.0  # seconds without a word; words come from a thread of their own, so no long step accounts for it
# A process that starts or loads its model has so many times as long, and so many seconds at least: libraries and
# weights may lie on a slow disk.
LOADING, LEAST_LOADING = 3, 60.0


@dataclass
class _Known:
    mark: tuple  # changes with each progress
    moved: float  # when it last changed
    stats: Stats | None
    heard: float  # when the latest stats came


class StallWatch:
    """Args:
    limit: seconds that a worker may go without progress; 0 is for ever.
    pictures: more seconds that it may wait for a picture.
    """

    def __init__(self, limit: float, pictures: float = 0.0):
        self._limit, self._pictures = limit, pictures
        self._clock = AwakeClock()
        self._known: dict[str, _Known] = {}

    def look(
        self, name: str, state: str, stats: Stats | None, stopped: Callable[[], bool] = lambda: False
    ) -> str | None:
        """What is wrong with the worker, or None. To be called more often than once a second.

        Args:
            state: of its Member.
            stats: the latest that it sent, or None before the first.
            stopped: tells whether somebody has stopped its process; then it is given no longer because it loads.
        """
        if not self._limit:
            return None
        now, mark = self._clock.now(), (state, stats and (stats.stage, stats.steps))
        known = self._known.setdefault(name, _Known(mark, now, stats, now))
        idle = state == "waiting" or (stats is not None and stats.stage == "waiting")
        if stats is not known.stats or mark != known.mark:
            known.stats, known.heard = stats, now
        if mark != known.mark or idle:
            known.mark, known.moved = mark, now
        limit = self._limit
        silence = longest = min(limit, _SILENCE)
        if state in ("starting", "waiting", "loading", "warming"):
            limit = longest = max(LOADING * limit, LEAST_LOADING)
        elif stats and stats.stage == "preprocessing":
            limit += self._pictures
        silent, still = now - known.heard, now - known.moved
        if silent > longest or (silent > silence and stopped()):
            return f"it said nothing for {silent:.0f} s"
        return f"it made no progress for {still:.0f} s" if still > limit else None

    def forget(self, name: str) -> None:
        """The worker of this name is gone; another may follow."""
        self._known.pop(name, None)


def watch_for(settings: Settings, device: str) -> StallWatch:
    """The watch that the user asked for, over workers on this kind of device."""
    limit = settings.stall_timeout
    if limit is None:
        limit = ON_CPU if device == "cpu" else ON_GPU
    return StallWatch(limit, settings.decode_timeout)
