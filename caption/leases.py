"""Leases: who holds which items. Each hand-out has a number of its own; a result under another number is late."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from caption.item import Item
from caption.messages import Ref


@dataclass
class Held:
    """What a worker held when its lease was revoked.

    Attributes:
        fresh: items that had not been started.
        suspects: groups of items that were inside the engine, as they went in together.
    """

    fresh: list[Item] = field(default_factory=list)
    suspects: list[list[Item]] = field(default_factory=list)


class Leases:
    """The items out of the coordinator's hands."""

    def __init__(self):
        self._numbers = itertools.count(1)
        self._items: dict[Ref, tuple[str, Item]] = {}
        self._held: dict[str, dict[Ref, None]] = {}
        self._group: dict[Ref, int] = {}
        self._groups = itertools.count(1)

    def __len__(self) -> int:
        return len(self._items)

    def grant(self, worker: str, items: Sequence[Item]) -> int:
        """Lends items to a worker; returns the number of the lease."""
        lease = next(self._numbers)
        held = self._held.setdefault(worker, {})
        for position, item in enumerate(items):
            self._items[lease, position] = (worker, item)
            held[lease, position] = None
        return lease

    def start(self, refs: Sequence[Ref]) -> None:
        """These went into the engine as one group."""
        group = next(self._groups)
        for ref in refs:
            if ref in self._items:
                self._group[ref] = group

    def settle(self, ref: Ref) -> Item | None:
        """Ends the lease of one item; None if it is no longer lent under this number."""
        worker, item = self._items.pop(ref, (None, None))
        if worker is not None:
            del self._held[worker][ref]
            self._group.pop(ref, None)
        return item

    def unstarted(self, worker: str) -> int:
        return sum(ref not in self._group for ref in self._held.get(worker, ()))

    def holds(self, worker: str) -> int:
        return len(self._held.get(worker, ()))

    def revoke(self, worker: str) -> Held:
        """Takes back all that a worker holds."""
        held, groups = Held(), {}
        for ref in list(self._held.get(worker, ())):
            group = self._group.get(ref)
            item = self.settle(ref)
            if group is None:
                held.fresh.append(item)
            else:
                groups.setdefault(group, []).append(item)
        held.suspects = list(groups.values())
        return held
