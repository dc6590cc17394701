"""Standstill: how long a GPU had nothing to do because the host came late with its next work."""

from collections import deque

import torch


class Standstill:
    """Seen at the borders between turns, by events whose time the device notes. What is within a turn is not seen.

    seconds: so far.
    """

    def __init__(self):
        self.seconds = 0.0
        self._end: torch.cuda.Event | None = None  # of the turn before
        self._borders: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()  # that are yet to be read

    def begins(self) -> None:
        """A turn's first work comes next, in the current stream. Nothing is done where it has begun before."""
        if self._end is None:
            return
        self._borders.append((self._end, _now()))
        self._end = None
        while self._borders and all(event.query() for event in self._borders[0]):
            end, begin = self._borders.popleft()
            self.seconds += max(0.0, end.elapsed_time(begin)) / 1e3

    def ends(self) -> None:
        """The current stream has all of a turn's work before it."""
        self._end = _now()

    def forget(self) -> None:
        """What comes next comes late for other reasons."""
        self._end = None


def _now() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
