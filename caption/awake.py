"""Awake: a clock that stands still while its process does, so that nobody is blamed for a suspension."""

from __future__ import annotations

import time

_LONGEST = 1.0  # seconds between two looks that count


class AwakeClock:
    """Seconds in which this process ran. Look at it more often than once a second.

    A process that was stopped (SIGSTOP, Ctrl-Z, a machine that slept) finds on waking that all its deadlines are past,
    though nobody else had a chance either.
    """

    def __init__(self):
        self._looked, self._awake = time.monotonic(), 0.0

    def now(self) -> float:
        now = time.monotonic()
        self._awake += min(now - self._looked, _LONGEST)
        self._looked = now
        return self._awake
