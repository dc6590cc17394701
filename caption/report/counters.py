"""Counters whose memory has a bound, however many rows they are given."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any


class Bounded:
    """Counts texts, and forgets the rarest half whenever it holds too many.

    A text that stands on more than its share of 2/``room`` of all is never lost, and what is counted of it is short of
    the truth by no more than that share.

    Attributes:
        complete: nothing was forgotten, so every count is exact.
    """

    def __init__(self, room: int):
        self._room, self._counts = room, Counter()
        self.complete = True

    def update(self, texts: Iterable[str]) -> None:
        self._counts.update(texts)
        if len(self._counts) > self._room:
            self._counts = Counter(dict(self._counts.most_common(self._room // 2)))
            self.complete = False

    def most_common(self, number: int) -> list[tuple[str, int]]:
        return self._counts.most_common(number)

    def __len__(self) -> int:
        """Texts that are known now; if ``complete``, all there were."""
        return len(self._counts)


class Sample:
    """Some of all rows, each with the same chance, drawn by a seed: the same rows give the same sample.

    Skips ahead (algorithm L), so that a row that is not taken costs a comparison.
    """

    def __init__(self, size: int, seed: str):
        self._random = random.Random(seed)
        self._size, self._seen, self._next, self._weight = size, 0, size, 1.0
        self.rows: list[Any] = []
        self._skip()

    def _skip(self) -> None:

        self._weight *= math.exp(math.log(1 - self._random.random()) / max(self._size, 1))
        self._next += int(math.log(1 - self._random.random()) / math.log1p(-min(self._weight, 1 - 1e-12)))

    def add(self, row: Any) -> None:
        place, self._seen = self._seen, self._seen + 1
        if place < self._size:
            self.rows.append(row)
        elif place == self._next and self._size:
            self.rows[self._random.randrange(self._size)] = row
            self._next += 1
            self._skip()


class Top:
    """The rows with the largest keys; of equal keys, the first ones."""

    def __init__(self, size: int):
        self._size, self._heap, self._numbers = size, [], itertools.count(0, -1)

    def add(self, key: float, row: Any) -> None:
        entry = (key, next(self._numbers), row)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        elif self._heap and key > self._heap[0][0]:
            heapq.heapreplace(self._heap, entry)

    @property
    def rows(self) -> list[Any]:
        """Largest first."""
        return [row for _, _, row in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


class Spread:
    """Whole numbers by how often each came: exact quantiles of a million in little memory.

    Numbers above ``most`` count as ``most``.
    """

    def __init__(self, most: int = 100_000):
        self._most, self.counts = most, Counter()

    def add(self, number: int) -> None:
        self.counts[min(number, self._most)] += 1

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def mean(self) -> float:
        total = self.total
        return sum(number * count for number, count in self.counts.items()) / total if total else 0.0

    def quantiles(self, shares: Iterable[float]) -> list[int]:
        """The smallest numbers that at least these shares of all are not above; none if there is nothing."""
        if not self.counts:
            return []
        numbers = sorted(self.counts)
        sums = list(itertools.accumulate(self.counts[number] for number in numbers))
        return [next(n for n, s in zip(numbers, sums) if s >= share * sums[-1]) for share in shares]
