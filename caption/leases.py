"""Leases: who holds which items. Each hand-out has a number of its own; a result under another number is late."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from caption.item import Item
from caption.messages import Ref


@dataclass
class Held:
    """What a worker held when its leases were revoked.

    Attributes:
        fresh: items that had not been started.
        waiting: groups that were to run alone and had not been started.
        suspects: groups of items that were inside the engine, as they went in together.
    """

    fresh: list[Item] = field(default_factory=list)
    waiting: list[list[Item]] = field(default_factory=list)
    suspects: list[list[Item]] = field(default_factory=list)


class Leases:
    """The items out of the coordinator's hands."""

    def __init__(self):
        self._numbers = itertools.count(1)
        self._items: dict[Ref, tuple[str, Item]] = {}
        self._held: dict[str, dict[Ref, None]] = {}
        self._unstarted: Counter[str] = Counter()
        self.all_unstarted = 0  # items that have not entered an engine
        self._group: dict[Ref, int] = {}
        self._groups = itertools.count(1)
        self._alone: dict[int, int] = {}  # lease -> how many of its items are still lent

    def __len__(self) -> int:
        return len(self._items)

    def grant(self, worker: str, items: Sequence[Item], alone: bool = False) -> int:
        """Lends items to a worker, ``alone`` if nothing may join them; returns the number of the lease."""
        lease = next(self._numbers)
        if alone:
            self._alone[lease] = len(items)
        held = self._held.setdefault(worker, {})
        for position, item in enumerate(items):
            self._items[lease, position] = (worker, item)
            held[lease, position] = None
        self._count_unstarted(worker, len(items))
        return lease

    def start(self, refs: Sequence[Ref]) -> None:
        """These went into the engine as one group."""
        group = next(self._groups)
        for ref in refs:
            if ref in self._items:
                if ref not in self._group:
                    self._count_unstarted(self._items[ref][0], -1)
                self._group[ref] = group

    def settle(self, ref: Ref) -> Item | None:
        """Ends the lease of one item; None if it is no longer lent under this number."""
        worker, item = self._items.pop(ref, (None, None))
        if worker is not None:
            del self._held[worker][ref]
            if self._group.pop(ref, None) is None:
                self._count_unstarted(worker, -1)
            if ref[0] in self._alone:
                self._alone[ref[0]] -= 1
                if not self._alone[ref[0]]:
                    del self._alone[ref[0]]
        return item

    def _count_unstarted(self, worker: str, count: int) -> None:
        self._unstarted[worker] += count
        self.all_unstarted += count

    def unstarted(self, worker: str) -> int:
        """How many items a worker holds that have not entered its engine."""
        return self._unstarted[worker]

    def holds(self, worker: str) -> int:
        return len(self._held.get(worker, ()))

    def revoke(self, worker: str) -> Held:
        """Takes back all that a worker holds."""
        held, suspects, waiting = Held(), {}, {}
        for ref in list(self._held.get(worker, ())):
            group, alone = self._group.get(ref), ref[0] in self._alone
            item = self.settle(ref)
            if group is not None:
                suspects.setdefault(group, []).append(item)
            elif alone:
                waiting.setdefault(ref[0], []).append(item)
            else:
                held.fresh.append(item)
        held.suspects, held.waiting = list(suspects.values()), list(waiting.values())
        return held
