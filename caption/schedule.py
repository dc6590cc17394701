"""Schedule: shards of items, one a worker, and the three ways to hand them out. Pure: no processes, no clock.

A schedule holds at most a window of the input; the coordinator calls ``extend`` with the next items before it runs
dry. Workers are known by name. What a worker did not finish comes back through ``give_back``.
"""

from __future__ import annotations

import heapq
import itertools
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from caption.item import Item

KINDS = ("dynamic", "round-robin", "lockstep")
LARGEST_BATCH = 32  # items in one hand-out
# Images side by side, where nobody has said how many: as the engine has them on a CPU, and what a GPU's engine bears at
# least as a rule, before it has found out.
FEW, MANY = 8, 128


def usual_slots(device: str) -> int:
    """Images side by side on such a device, before its engine says how many."""
    return MANY if device == "cuda" else FEW


class Standing(NamedTuple):
    """How a worker stands that takes items, and the others.

    Attributes:
        slots: items that it does side by side.
        sharing: workers that share what there is to do; 0 for all.
        unstarted: items that it holds and has not begun; all_unstarted: the same of all workers.
    """

    slots: int = LARGEST_BATCH
    sharing: int = 0
    unstarted: int = 0
    all_unstarted: int = 0


UNKNOWN = Standing()


def make_schedule(kind: str, workers: Sequence[str], round_size: int) -> Schedule:
    """A schedule of one of ``KINDS``; ``round_size`` is a worker's part of a lockstep round, in items."""
    if kind == "dynamic":
        return Dynamic(workers)
    return Lockstep(workers, round_size) if kind == "lockstep" else RoundRobin(workers)


class Schedule(ABC):
    """What the three have in common: a shard (a queue of items) for each worker.

    Attributes:
        rounds: how the rounds went, where there are any.
    """

    rounds: Rounds | None = None

    def __init__(self, workers: Sequence[str]):
        self._shards: dict[str, deque[Item]] = {worker: deque() for worker in workers}
        # Items that a worker has taken and that have not ended; of one that has left, too: others do them.
        self._held = Counter()
        self._lent = 0  # all of them
        self._pending = 0
        self._complete = False

    @property
    def pending(self) -> int:
        """Items that nobody holds."""
        return self._pending

    def sizes(self) -> dict[str, int]:
        return {worker: len(shard) for worker, shard in self._shards.items()}

    def first(self, worker: str, count: int) -> list[Item]:
        """The next items of a worker's shard, to look at."""
        return list(itertools.islice(self._shards[worker], count))

    def costly_first(self, worker: str) -> bool:
        """Whether a worker's items differ in cost, so that it begins with costly ones."""
        shard = self._shards[worker]
        return bool(shard) and shard[0].cost > shard[-1].cost

    @abstractmethod
    def extend(self, items: Sequence[Item]) -> None:
        """Assigns the next items of the input."""

    def complete(self) -> None:
        """The input has no more items than those given: from now on nobody holds many that have to wait."""
        self._complete = True

    def take(self, worker: str, want: int, standing: Standing = UNKNOWN) -> list[Item]:
        """Up to ``want`` items of one adapter for ``worker``; none if it has to wait or all is handed out."""
        shard = self._shards[worker]
        taken = [shard.popleft() for _ in range(alike(shard, want))]
        self._lend(worker, len(taken))
        return taken

    def _lend(self, worker: str, count: int) -> None:
        """Counted, because a cluster has too many shards to add them up at each batch."""
        self._held[worker] += count
        self._lent += count
        self._pending -= count

    def ended(self, worker: str, count: int, now: float = 0.0) -> None:
        """``count`` items that ``worker`` took have come to their end, at the time ``now`` in seconds."""
        self._held[worker] -= count
        self._lent -= count

    def give_back(self, worker: str, items: Iterable[Item]) -> None:
        """Items that ``worker`` took and did not finish go to the head of its shard."""
        items = list(items)
        self._shards[worker].extendleft(reversed(items))
        self._lend(worker, -len(items))

    def join(self, worker: str) -> None:
        """``worker`` comes to the others, with nothing of its own as yet."""
        self._shards[worker] = deque()

    def leave(self, worker: str) -> None:
        """``worker`` is given up: the others share what is left of its shard."""
        rest = self._shards.pop(worker)
        for item in rest:
            if not self._shards:
                raise ValueError("the last worker has left")
            min(self._shards.values(), key=len).append(item)


class Dynamic(Schedule):
    """Each worker from its own shard, then from the longest one left; costly items go first.

    Items of one LoRA adapter stand together, and each worker gets stretches of few adapters; the rest holds within one.
    Items of equal cost are dealt in stretches of the input. Others are spread: each shard gets as many, of about the
    same cost in all. Once the end of the input is in sight, nobody holds more items that have to wait than it will
    have begun when a quarter of the rest is done, nor more than half of its part of all that is not begun: so the
    others end within the batch that the first to end was in, too.
    """

    def __init__(self, workers: Sequence[str]):
        super().__init__(workers)
        self._done, self._all_done = Counter(), 0
        self._adapters: set[tuple] = set()  # seen so far

    def extend(self, items: Sequence[Item]) -> None:
        self._pending += len(items)
        self._adapters.update(map(adapter_of, items))
        shards = list(self._shards.values())
        if len(self._adapters) > 1:
            items = by_adapter(items)
            parts = [items[start:end] for start, end in stretches(len(items), len(shards))]
        else:
            shards.sort(key=len)
            parts = dealt(items, len(shards))
        for shard, part in zip(shards, parts):
            shard.extend(part)
            self._sort(shard)

    def _sort(self, shard: deque[Item]) -> None:
        """Costly items first, equal ones as they stood; adapters as the first of each stood."""
        items = sorted(shard, key=_COST, reverse=True)
        if len(self._adapters) > 1:
            order = {adapter: place for place, adapter in enumerate(dict.fromkeys(map(adapter_of, shard)))}
            items.sort(key=lambda item: order[adapter_of(item)])
        shard.clear()
        shard.extend(items)

    def take(self, worker: str, want: int, standing: Standing = UNKNOWN) -> list[Item]:
        want = min(want, self._allowed(worker, standing.slots), self._part_unstarted(standing) - standing.unstarted)
        if want <= 0:
            return []
        taken = super().take(worker, want)
        if len(taken) == want or self._shards[worker] or not self.pending:
            return taken
        longest = [(-len(shard), place, shard) for place, shard in enumerate(self._shards.values()) if shard]
        heapq.heapify(longest)
        while len(taken) < want and longest:
            length, place, shard = longest[0]
            if self._held[worker] >= self._fair_share(standing) or not alike(shard, 1, taken):
                break
            taken.append(shard.popleft())
            self._lend(worker, 1)
            if shard:
                heapq.heapreplace(longest, (length + 1, place, shard))
            else:
                heapq.heappop(longest)
        return taken

    def _allowed(self, worker: str, slots: int) -> int:
        """How many it may take now without holding others up later."""
        if not self._complete or len(self._shards) == 1:
            return self.pending
        done = self._done[worker]
        # Its part of what is left, if it goes on as it began: a quarter of that may wait with it. While that says
        # little, it is taken for a tenth as fast as the others.
        ahead = min(done, self.pending * done // (4 * self._all_done)) if done else 0
        ahead = max(ahead, self.pending // (40 * len(self._shards)))
        return max(0, slots + ahead - self._held[worker])

    def _part_unstarted(self, standing: Standing) -> int:
        """What nobody holds more of that is not begun. Texts that were let in together may all end at once: who then
        took as many would leave nothing to those whose texts end a little later.

        Half of its part, so that as this shrinks something is left for who has less; but a batch, as far as that goes.
        """
        if not self._complete:
            return self.pending
        sharing = standing.sharing or len(self._shards)
        part = max(1, -(-(self.pending + standing.all_unstarted) // sharing))
        return part if sharing == 1 else min(part, max(LARGEST_BATCH, part // 2))

    def _fair_share(self, standing: Standing) -> int:
        """What nobody holds more of by taking from others."""
        if not self._complete:
            return self.pending + self._lent
        return max(1, (self.pending + self._lent) // (standing.sharing or len(self._shards)))

    def ended(self, worker: str, count: int, now: float = 0.0) -> None:
        super().ended(worker, count, now)
        self._done[worker] += count
        self._all_done += count

    def leave(self, worker: str) -> None:
        super().leave(worker)
        for shard in self._shards.values():
            self._sort(shard)
        self._all_done -= self._done.pop(worker, 0)


class RoundRobin(Schedule):
    """The i-th item to do goes to worker i mod N; nobody takes another's."""

    def __init__(self, workers: Sequence[str]):
        super().__init__(workers)
        self._order = tuple(workers)
        self._next = 0

    def extend(self, items: Sequence[Item]) -> None:
        self._pending += len(items)
        for item in items:
            owner = self._order[self._next % len(self._order)]
            self._next += 1
            if owner not in self._shards:
                owner = min(self._shards, key=lambda worker: len(self._shards[worker]))
            self._shards[owner].append(item)


class Rounds(NamedTuple):
    """How the rounds of a lockstep run went. A round's drift is how long the first worker was ahead of the last at its
    end, in seconds.

    Attributes:
        begun: rounds begun, the present one included.
        over: rounds that have ended.
        last: drift of the one that ended last.
        mean, most: drift of those that have ended.
        worst: number of the round with the most, counted from 1; 0: none has ended.
    """

    begun: int = 0
    over: int = 0
    last: float = 0.0
    mean: float = 0.0
    most: float = 0.0
    worst: int = 0

    def and_one(self, drift: float) -> Rounds:
        """These and one more that has ended."""
        over = self.over + 1
        mean = self.mean + (drift - self.mean) / over
        most, worst = (drift, over) if drift > self.most or not self.worst else (self.most, self.worst)
        return Rounds(self.begun, over, drift, mean, most, worst)


class Lockstep(RoundRobin):
    """Round-robin in rounds: nobody begins round r + 1 before all have ended round r."""

    def __init__(self, workers: Sequence[str], round_size: int):
        super().__init__(workers)
        self._size = round_size
        self._left = dict.fromkeys(workers, 0)  # items of this round that a worker may still take
        self._before = Rounds()  # without what the present one adds when it is over
        self._ends: dict[str, float] = {}  # of this round: when each worker ended its latest item

    @property
    def round(self) -> int:
        """The current round, counted from 1; 0 before the first."""
        return self._before.begun

    @property
    def rounds(self) -> Rounds:
        if not self._ends or not self._round_is_over():
            return self._before
        return self._before.and_one(max(self._ends.values()) - min(self._ends.values()))

    def take(self, worker: str, want: int, standing: Standing = UNKNOWN) -> list[Item]:
        if self.pending and self._round_is_over():
            self._before = self.rounds._replace(begun=self.round + 1)
            self._ends.clear()
            self._left = dict.fromkeys(self._shards, self._size)
        taken = super().take(worker, min(want, self._left[worker]))
        self._left[worker] -= len(taken)
        return taken

    def _round_is_over(self) -> bool:
        if any(self._held.values()):
            return False
        return all(not self._left[worker] or not shard for worker, shard in self._shards.items())

    def ended(self, worker: str, count: int, now: float = 0.0) -> None:
        super().ended(worker, count, now)
        self._ends[worker] = now

    def give_back(self, worker: str, items: Iterable[Item]) -> None:
        items = list(items)
        super().give_back(worker, items)
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


_COST = attrgetter("cost")


def adapter_of(item: Item) -> tuple[str | None, float | None]:
    return item.lora, item.lora_scale


def alike(items: Iterable[Item], most: int, others: Sequence[Item] = ()) -> int:
    """How many items at the beginning, at most so many, want the same adapter, and that of the others."""
    head = list(itertools.islice(items, most))
    wanted = [adapter_of(item) for item in (*others[:1], *head[:1])]
    return sum(1 for _ in itertools.takewhile(lambda item: adapter_of(item) == wanted[0], head))


def by_adapter(items: Sequence[Item]) -> list[Item]:
    """Those of one adapter side by side, in an order that is the same each time; else as they stood."""
    return sorted(items, key=lambda item: (item.lora or "", item.lora_scale is not None, item.lora_scale or 0.0))


def dealt(items: Sequence[Item], parts: int) -> list[list[Item]]:
    """The items in so many parts, of lengths that differ by at most one: stretches of them if all cost the same, else
    parts of about the same cost."""
    costs = set(map(_COST, items))
    if len(costs) < 2:
        return [list(items[start:end]) for start, end in stretches(len(items), parts)]
    room = [end - start for start, end in stretches(len(items), parts)]
    dealt_: list[list[Item]] = [[] for _ in room]
    lightest = [(0.0, part) for part in range(parts)]
    # The next costliest to the lightest part that has room (longest processing time first, Graham 1969).
    for item in sorted(items, key=_COST, reverse=True):
        weight, part = heapq.heappop(lightest)
        dealt_[part].append(item)
        if len(dealt_[part]) < room[part]:
            heapq.heappush(lightest, (weight + item.cost, part))
    return dealt_


def stretches(count: int, parts: int) -> list[tuple[int, int]]:
    """``count`` rows cut into ``parts`` ranges [start, end); the first ``count % parts`` are longer by one."""
    least, longer = divmod(count, parts)
    edges = [part * least + min(part, longer) for part in range(parts + 1)]
    return list(itertools.pairwise(edges))
