"""Line: one queue for all workers, in the order of the input, for a pool whose work comes bit by bit."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from caption.item import Item
from caption.schedule import UNKNOWN, Schedule, Standing


class Line(Schedule):
    """The next free worker takes what stands first, so that results come about as the input goes."""

    def __init__(self, workers: Sequence[str]):
        super().__init__(workers)
        self._line: deque[Item] = deque()

    @property
    def pending(self) -> int:
        return len(self._line)

    def extend(self, items: Sequence[Item]) -> None:
        self._line.extend(items)

    def take(self, worker: str, want: int, standing: Standing = UNKNOWN) -> list[Item]:
        """A part of what stands there, so that the others find work too: nobody knows whether more comes."""
        count = min(want, math.ceil(len(self._line) / (2 * len(self._shards))))
        return [self._line.popleft() for _ in range(count)]

    def give_back(self, worker: str, items: Iterable[Item]) -> None:
        self._line.extendleft(reversed(list(items)))

    def leave(self, worker: str) -> None:
        del self._shards[worker]

    def remove(self, unwanted: Callable[[Item], bool]) -> list[Item]:
        """Takes items out that nobody wants any more."""
        removed = [item for item in self._line if unwanted(item)]
        self._line = deque(item for item in self._line if not unwanted(item))
        return removed
