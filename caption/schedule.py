"""Schedule: shards of items, one a worker, and the three ways to hand them out. Pure: no processes, no clock.

A schedule holds at most a window of the input; the coordinator calls ``extend`` with the next items before it runs
dry. Workers are known by name. What a worker did not finish comes back through ``give_back``.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Sequence

from caption.item import Item

KINDS = ("dynamic", "round-robin", "lockstep")
LARGEST_BATCH = 32  # items in one hand-out
# Images side by side, where nobody has said how many: as the engine has them on a CPU, and what a GPU's engine bears at
# least as a rule, before it has found out.
FEW, MANY = 8, 128


def make_schedule(kind: str, workers: Sequence[str], round_size: int) -> Schedule:
    """A schedule of one of ``KINDS``; ``round_size`` is a worker's part of a lockstep round, in items."""
    if kind == "dynamic":
        return Dynamic(workers)
    return Lockstep(workers, round_size) if kind == "lockstep" else RoundRobin(workers)


class Schedule:
    """What the three have in common: a shard (a queue of items) for each worker."""

    def __init__(self, workers: Sequence[str]):
        self._shards: dict[str, deque[Item]] = {worker: deque() for worker in workers}
        self._complete = False

    @property
    def pending(self) -> int:
        """Items that nobody holds."""
        return sum(map(len, self._shards.values()))

    def sizes(self) -> dict[str, int]:
        return {worker: len(shard) for worker, shard in self._shards.items()}

    def first(self, worker: str, count: int) -> list[Item]:
        """The next items of a worker's shard, to look at."""
        return list(itertools.islice(self._shards[worker], count))

    def extend(self, items: Sequence[Item]) -> None:
        """Assigns the next items of the input."""
        raise NotImplementedError

    def complete(self) -> None:
        """The input has no more items than those given: from now on batches may shrink."""
        self._complete = True

    def take(self, worker: str, want: int) -> list[Item]:
        """Up to ``want`` items of one adapter for ``worker``; none if it has to wait or all is handed out."""
        shard = self._shards[worker]
        return [shard.popleft() for _ in range(alike(shard, want))]

    def ended(self, worker: str, count: int) -> None:
        """``worker`` has brought ``count`` items to their end."""

    def give_back(self, worker: str, items: Iterable[Item]) -> None:
        """Items that ``worker`` took and did not finish go to the head of its shard."""
        self._shards[worker].extendleft(reversed(list(items)))

    def leave(self, worker: str) -> None:
        """``worker`` is given up: the others share what is left of its shard."""
        rest = self._shards.pop(worker)
        for item in rest:
            if not self._shards:
                raise ValueError("the last worker has left")
            min(self._shards.values(), key=len).append(item)


class Dynamic(Schedule):
    """Each worker from its own shard, a stretch of the input; then from the end of the longest shard left."""

    def extend(self, items: Sequence[Item]) -> None:
        items = by_adapter(items)
        for (start, end), shard in zip(stretches(len(items), len(self._shards)), self._shards.values()):
            _join(shard, items[start:end])

    def take(self, worker: str, want: int) -> list[Item]:
        if self._complete:
            # Guided self-scheduling (Polychronopoulos & Kuck 1987): each take is a part of what is left, so that
            # nobody holds much when the others run dry.
            want = min(want, math.ceil(self.pending / (2 * len(self._shards))))
        taken = super().take(worker, want)
        while len(taken) < want and not self._shards[worker]:
            longest = max(self._shards.values(), key=len)
            count = alike(reversed(longest), want - len(taken), taken)
            if not count:
                break
            taken += reversed([longest.pop() for _ in range(count)])
        return taken

    def leave(self, worker: str) -> None:
        super().leave(worker)
        for shard in self._shards.values():
            _join(shard, ())


class RoundRobin(Schedule):
    """The i-th item to do goes to worker i mod N; nobody takes another's."""

    def __init__(self, workers: Sequence[str]):
        super().__init__(workers)
        self._order = tuple(workers)
        self._next = 0

    def extend(self, items: Sequence[Item]) -> None:
        for item in items:
            owner = self._order[self._next % len(self._order)]
            self._next += 1
            if owner not in self._shards:
                owner = min(self._shards, key=lambda worker: len(self._shards[worker]))
            self._shards[owner].append(item)


class Lockstep(RoundRobin):
    """Round-robin in rounds: nobody begins round r + 1 before all have ended round r.

    Attributes:
        round: the current round, counted from 1; 0 before the first.
    """

    def __init__(self, workers: Sequence[str], round_size: int):
        super().__init__(workers)
        self.round = 0
        self._size = round_size
        self._left = dict.fromkeys(workers, 0)  # items of this round that a worker may still take
        # Items of this round that it has taken and that have not ended; of one that has left, too, because they are
        # done by others before the round is over.
        self._held = dict.fromkeys(workers, 0)

    def take(self, worker: str, want: int) -> list[Item]:
        if self.pending and self._round_is_over():
            self.round += 1
            self._left = dict.fromkeys(self._shards, self._size)
        taken = super().take(worker, min(want, self._left[worker]))
        self._left[worker] -= len(taken)
        self._held[worker] += len(taken)
        return taken

    def _round_is_over(self) -> bool:
        if any(self._held.values()):
            return False
        return all(not self._left[worker] or not shard for worker, shard in self._shards.items())

    def ended(self, worker: str, count: int) -> None:
        self._held[worker] -= count

    def give_back(self, worker: str, items: Iterable[Item]) -> None:
        items = list(items)
        super().give_back(worker, items)
        self._held[worker] -= len(items)
        self._left[worker] += len(items)

    def leave(self, worker: str) -> None:
        unfinished = min(self._left.pop(worker), len(self._shards[worker]))
        rest = self._shards[worker]
        now = [rest.popleft() for _ in range(unfinished)]
        super().leave(worker)
        for item in now:  # its part of this round is done by the others in this round
            heir = min(self._left, key=self._left.get)
            self._shards[heir].appendleft(item)
            self._left[heir] += 1


def adapter_of(item: Item) -> tuple[str | None, float | None]:
    return item.lora, item.lora_scale


def alike(items: Iterable[Item], most: int, others: Sequence[Item] = ()) -> int:
    """How many items at the beginning, at most so many, want the same adapter, and that of the others."""
    head = list(itertools.islice(items, most))
    wanted = [adapter_of(item) for item in (*others[:1], *head[:1])]
    return sum(1 for _ in itertools.takewhile(lambda item: adapter_of(item) == wanted[0], head))


def by_adapter(items: Sequence[Item]) -> Sequence[Item]:
    """Those of one adapter side by side, in an order that is the same each time; else as they stood."""
    if all(item.lora is None and item.lora_scale is None for item in items):
        return items
    return sorted(items, key=lambda item: (item.lora or "", item.lora_scale is not None, item.lora_scale or 0.0))


def _join(shard: deque[Item], items: Sequence[Item]) -> None:
    """Puts items behind those of a shard that want the same adapter; those of one that it has not, at its end."""
    before = len(shard)
    shard.extend(items)
    if before and any(adapter_of(item) != adapter_of(shard[0]) for item in shard):
        groups: dict[tuple, list[Item]] = {}
        for item in shard:
            groups.setdefault(adapter_of(item), []).append(item)
        shard.clear()
        shard.extend(itertools.chain.from_iterable(groups.values()))


def stretches(count: int, parts: int) -> list[tuple[int, int]]:
    """``count`` rows cut into ``parts`` ranges [start, end) whose lengths differ by at most one."""
    edges = [count * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))
