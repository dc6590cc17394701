"""Pace: when rows are committed."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST = 30.0  # seconds between commits, while there is something to commit
_BETWEEN = 4  # times as long as a commit took nothing is committed: of a slow disk a run takes a fifth of the time


class Pace:
    """After so many rows, and after so long; but workers starve while the coordinator waits for the disk.

    Args:
        every: rows.
        clock: seconds.
    """

    def __init__(self, every: int, clock: Callable[[], float] = time.monotonic):
        self._every, self._clock = every, clock
        self._last = clock()  # when the latest commit ended, or there was nothing to commit
        self._not_before = self._last

    def run(self, waiting: int, commit: Callable[[], None]) -> None:
        """Commits, if it is time to. waiting: rows that are not committed."""
        now = self._clock()
        if not waiting:
            self._last = now
        elif (waiting >= self._every and now >= self._not_before) or now - self._last >= LONGEST:
            commit()
            self._last = self._clock()
            self._not_before = self._last + _BETWEEN * (self._last - now)
