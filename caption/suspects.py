"""Suspects: groups of items that run by themselves, because one of each may be to blame for the end of a worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from caption.item import Item


class Suspects:
    """Nobody holds them. What ends a worker can be its seat as well, so a group is tried on another if there is one."""

    def __init__(self):
        self._groups: deque[list[Item]] = deque()
        self._deaths: dict[int, set[str]] = {}  # item index -> seats whose worker ended with it inside
        self._deaths_alone: dict[int, set[str]] = {}  # the same, with nothing else inside

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, group: Sequence[Item]) -> None:
        self._groups.append(list(group))

    def add_first(self, groups: Sequence[Sequence[Item]]) -> None:
        """Before all others, in this order."""
        self._groups.extendleft(list(group) for group in reversed(groups))

    def inside_at_death(self, seat: str, items: Sequence[Item]) -> None:
        """The worker on ``seat`` ended with these inside."""
        for item in items:
            self._deaths.setdefault(item.index, set()).add(seat)
        if len(items) == 1:
            self._deaths_alone.setdefault(items[0].index, set()).add(seat)

    def split(self, group: Sequence[Item]) -> None:
        """It is not known which of the group is to blame: next its halves are tried."""
        half = (len(group) + 1) // 2
        self.add_first([part for part in (group[:half], group[half:]) if part])

    def take(self, seat: str, seats: Collection[str]) -> list[Item] | None:
        """The next group for ``seat``; None if there is none that it should have.

        Args:
            seats: those that have, or will get, a worker.
        """
        for place, group in enumerate(self._groups):
            deaths = set().union(*(self._deaths.get(item.index, ()) for item in group))
            if seat not in deaths or deaths.issuperset(seats):
                del self._groups[place]
                return group
        return None

    def convicted(self, item: Item, seats: Collection[str]) -> bool:
        """Whether it is to blame, and no seat: workers ended with it alone inside on several seats, or on all that are
        left of ``seats``."""
        deaths = self._deaths_alone.get(item.index, set())
        return len(deaths) > 1 or deaths.issuperset(seats)

    def forget(self, item: Item) -> None:
        """It has come to its end."""
        self._deaths.pop(item.index, None)
        self._deaths_alone.pop(item.index, None)
