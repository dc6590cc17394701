"""Growth: ``--workers-per-gpu auto``: adds workers to the GPUs while memory is free and the images a second grow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from caption.awake import AwakeClock
from caption.crew import Crew, Member
from caption.gpus import free_memory
from caption.schedule import Schedule

SPAN = 30.0  # seconds over which a rate is measured, at least
_LEAST = 64  # images in that time, or it takes longer
_SETTLE = 0.5  # of SPAN, after all are ready and before measuring
_WORTH = 1.05  # times the rate without them: less is not worth the memory
_MOST = 8  # workers on one GPU
_ROOM = 1.2  # times the memory that each worker took so far must be free for another


class Growth:
    """One more worker at a time on each GPU that has room; the last ones go again if they brought nothing.

    Args:
        crew, schedule: with one worker a GPU to begin with; nothing of them has been started.
        say: for a line to the user.
    """

    def __init__(self, crew: Crew, schedule: Schedule, say: Callable[[str], None]):
        self._crew, self._schedule, self._say = crew, schedule, say
        self._first = {member.seat.visible: member.seat for member in crew.members}
        self._free_before = {gpu: free_memory(gpu) for gpu in self._first}
        self._clock = AwakeClock()
        self._layer: list[Member] = []  # those added last
        self._each = 1  # workers on a GPU that has them all
        self._best = 0.0  # images a second without the latest layer
        self._begin: tuple[float, int] | None = None  # when measuring began, and images done by then
        self._ready_since: float | None = None
        self.ended = False

    def look(self, done: int, pending: int | None) -> None:
        """To be called more often than once a second.

        Args:
            done: images so far.
            pending: images that nobody holds yet; None: more than are known.
        """
        now = self._clock.now()
        if self.ended:
            return
        if not self._crew.assembled:
            self._ready_since = self._begin = None
            return
        self._ready_since = self._ready_since or now
        if self._begin is None:
            if now - self._ready_since >= _SETTLE * SPAN:
                self._begin = now, done
            return
        seconds, images = now - self._begin[0], done - self._begin[1]
        if seconds >= SPAN and images >= _LEAST:
            self._decide(images / seconds, pending)
            self._ready_since = self._begin = None

    def _decide(self, rate: float, pending: int | None) -> None:
        if self._layer and rate < _WORTH * self._best:
            self._shrink(rate)
            return
        self._best = rate
        loading = sum(member.load_seconds for member in self._crew.members[: len(self._first)])
        if pending is not None and pending < rate * 2 * (SPAN + loading):
            self.ended = True  # it is over before it would pay
            return
        self._grow(rate)

    def _grow(self, rate: float) -> None:
        self._each += 1
        self._layer = []
        for gpu, first in self._first.items():
            workers = sum(member.seat.visible == gpu and not member.gone for member in self._crew.members)
            free = free_memory(gpu)
            if not (workers and free and self._free_before[gpu]):
                continue
            free_bytes, total = free
            taken = (self._free_before[gpu][0] - free_bytes) / workers
            if free_bytes < _ROOM * taken:
                continue
            share = free_bytes / total / 2  # the others may grow, too
            seat = dataclasses.replace(first, name=f"{first.name}.{self._each}", memory_share=share)
            self._layer.append(self._crew.add(seat))
            self._schedule.join(seat.name)
        self.ended = not self._layer or self._each >= _MOST
        if self._layer:
            names = ", ".join(member.name for member in self._layer)
            self._say(f"{names} added: {rate:.3g} images/s so far, and memory is free.")

    def _shrink(self, rate: float) -> None:
        names = ", ".join(member.name for member in self._layer)
        self._say(f"{names} taken off again: {rate:.3g} images/s with, {self._best:.3g} without.")
        for member in self._layer:
            if not member.gone:
                self._crew.retire(member)
        self.ended = True
