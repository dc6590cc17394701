"""Lanes: pictures on their way into the engine, by the adapter that they want; one lane is open at a time.

An adapter is changed only when the engine is empty and nothing more comes on the open lane, so that it is loaded once
for a stretch of images that want it.
"""

from __future__ import annotations

import time
from collections import Counter, deque

from caption.engine import Adapter, DoesNotFit, Engine
from caption.messages import Prepared


class Group:
    """Items that run by themselves: how many are still in the loaders, and the others."""

    def __init__(self, missing: int):
        self.missing = missing
        self.prepared: list[Prepared] = []

    def complete_with(self, prepared: Prepared | None) -> bool:
        """One more has come from the loaders; None: as a failure. Whether that was the last, and there is anything."""
        self.missing -= 1
        if prepared:
            self.prepared.append(prepared)
        return not self.missing and bool(self.prepared)


class Lanes:
    """Args:
        adapter: the one that the engine begins with.

    Attributes:
        open: the adapter that the engine has.
    """

    def __init__(self, adapter: Adapter | None):
        self.open = adapter
        self._ready: dict[Adapter | None, deque[Prepared]] = {}  # in the order in which they were first wanted
        self._coming: Counter[Adapter | None] = Counter()
        self._misfits: dict[Adapter | None, DoesNotFit] = {}

    @property
    def ready(self) -> deque[Prepared]:
        """Pictures of the open lane that are prepared."""
        return self._ready.setdefault(self.open, deque())

    @property
    def coming(self) -> int:
        """How many of the open lane the loaders still have."""
        return self._coming[self.open]

    def expect(self, adapter: Adapter | None) -> None:
        """A picture that wants this adapter has been given to the loaders."""
        self._ready.setdefault(adapter, deque())
        self._coming[adapter] += 1

    def arrive(self, adapter: Adapter | None, prepared: Prepared | None) -> None:
        """It has come from the loaders; None: as a failure."""
        self._coming[adapter] -= 1
        if prepared:
            self._ready[adapter].append(prepared)

    def clear(self, adapter: Adapter | None) -> list[Prepared]:
        """Takes out what is prepared on a lane."""
        taken = list(self._ready[adapter])
        self._ready[adapter].clear()
        return taken

    def following(self, now: bool) -> tuple[Adapter | None] | None:
        """The adapter to change to, in a tuple; None: the open lane has more, or no other lane has a picture yet.

        Args:
            now: what is still coming on the open lane is not waited for.
        """
        if self.ready or (self.coming and not now):
            return None
        self._ready = {one: lane for one, lane in self._ready.items() if lane or self._coming[one]}
        return next(((one,) for one, lane in self._ready.items() if lane), None)

    def change(self, engine: Engine, adapter: Adapter | None) -> float:
        """Opens the lane of an adapter and gives it to the engine, which must be empty; returns the seconds it took.

        Raises:
            DoesNotFit: it belongs to another model; then the lane without one is open. Each is tried only once.
        """
        if adapter in self._misfits:
            raise self._misfits[adapter]
        begin = time.monotonic()
        try:
            engine.adapt(adapter)
        except DoesNotFit as error:
            self.open, self._misfits[adapter] = None, error
            raise
        self.open = adapter
        return time.monotonic() - begin
