"""Laps: where the time goes between a command and its first caption, part by part."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Laps:
    """Parts of a time that follow each other without a gap.

    Args:
        since: when the first begins, by ``time.monotonic``; None is now.

    Attributes:
        seconds: by part, in their order.
        last: when the latest ended.
    """

    def __init__(self, since: float | None = None):
        self.seconds: dict[str, float] = {}
        self.last = time.monotonic() if since is None else since

    def end(self, part: str, now: float | None = None) -> None:
        """What was done since the last call, or up to ``now``, was this. A part that comes again grows."""
        now = max(self.last, time.monotonic() if now is None else now)
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def add(self, seconds: dict[str, float]) -> None:
        """Parts that somebody else has measured come next."""
        for part, count in seconds.items():
            self.end(part, self.last + count)


def process_begin() -> float:
    """When this process was started, by ``time.monotonic``; to 10 ms on Linux, elsewhere it is now."""
    now = time.monotonic()
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return now
