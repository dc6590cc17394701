"""Crew: the workers of a run, one a seat: started, given their turn to load, watched, replaced when they die.

It starts processes and carries messages; what the messages mean for items is the coordinator's business.
"""

from __future__ import annotations

import selectors
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from caption.devices import Seat
from caption.messages import Broken, Drain, Finish, Hello, Left, Load, Loaded, NotLoaded, Setup, Stats
from caption.process import Child

FAILED_LOADS = 3  # a seat whose worker dies this often in a row before it has loaded is given up
FRUITLESS_DEATHS = 10  # ... or this often in a row without one result in between
LONGEST_PAUSE = 60.0  # seconds between two tries on one seat
_HOPELESS = {"NotFound", "NeedsRemoteCode", "NoSafetensors", "NotAVisionModel", "DoesNotFit", "DoesNotLoad"}


class Died(NamedTuple):
    """A worker is gone, and all that it had sent has been handed out before this. ``final``: GivenUp follows."""

    reason: str
    final: bool


class Renewed(NamedTuple):
    """A worker has left because it was asked to, and the next one takes its seat. What it still held was not begun."""


class GivenUp(NamedTuple):
    """A seat gets no worker any more; follows Died."""

    reason: str
    model_error: str | None  # class name, when the model is the reason


class Member:
    """A seat and the worker that sits on it.

    Attributes:
        state: "pausing", "starting" (until Hello), "waiting" (for its turn), "loading", "ready", "renewing" (it ends,
            and another follows), "left" or "gone".
        stats: the last Stats of the present worker.
        facts: what its engine said of itself.
    """

    def __init__(self, seat: Seat):
        self.seat = seat
        self.state = "pausing"
        self.child: Child | None = None
        self.stats: Stats | None = None
        self.facts: dict = {}
        self.load_seconds = 0.0
        self.starts = 0
        self._resume_at = 0.0
        self._failed_loads = self._fruitless = 0
        self._renewing = False
        self._model_error: NotLoaded | None = None
        self._broken: str | None = None
        self._spent: dict[str, float] = {}  # by the workers before

    @property
    def name(self) -> str:
        return self.seat.name

    @property
    def seconds(self) -> dict[str, float]:
        """What all its workers have spent, by stage, as in Stats."""
        return dict(Counter(self._spent) + Counter(self.stats.seconds if self.stats else {}))

    @property
    def gone(self) -> bool:
        return self.state in ("left", "gone")

    def fruitful(self) -> None:
        """It brought a result: earlier deaths no longer count."""
        self._fruitless = 0


class Crew:
    """Args:
    seats: where workers run.
    setup: makes the first message for a seat's worker.
    """

    def __init__(self, seats: Sequence[Seat], setup: Callable[[Seat], Setup]):
        self.members = [Member(seat) for seat in seats]
        self._setup = setup
        self._selector = selectors.DefaultSelector()
        self._ending = False

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def working(self) -> bool:
        """Whether any seat has, or will get, a worker."""
        return any(not member.gone for member in self.members)

    def send(self, member: Member, message: object) -> None:
        member.child.channel.send(message)
        self._write_when_possible(member)

    def tell_all(self, message: Finish | Drain) -> None:
        """The last word to all workers: nobody is started any more."""
        self._ending = True
        for member in self.members:
            if member.state == "ready":
                self.send(member, message)
            elif member.state in ("starting", "waiting", "loading"):
                member.child.kill()  # it holds nothing, and a load can take minutes
            elif member.state == "pausing":
                member.state = "left"

    def renew(self) -> None:
        """Replaces all workers by others, whose setup is asked for anew; they finish what is inside the engine."""
        for member in self.members:
            if member.child and not member._renewing:
                member._renewing = True
                if member.state == "ready":
                    member.state = "renewing"
                    self.send(member, Drain())
                else:
                    member.child.kill()  # it holds nothing

    def kill_all(self) -> None:
        for member in self.members:
            if member.child:
                member.child.kill()

    def poll(self, timeout: float) -> list[tuple[Member, object]]:
        """Waits up to ``timeout`` seconds; returns what came: messages about items, Loaded, Died, GivenUp."""
        self._start_due()
        events: list[tuple[Member, object]] = []
        for key, mask in self._selector.select(timeout):
            member = key.data
            if mask & selectors.EVENT_WRITE:
                member.child.channel.flush()
            if mask & selectors.EVENT_READ:
                self._receive(member, events)
            if member.child:
                self._write_when_possible(member)
        self._grant_turn()
        return events

    def close(self) -> None:
        """Ends all processes; those told to end before get no more time."""
        for member in self.members:
            if member.child:
                member.child.close()
                member.child = None
        self._selector.close()

    # ---- one worker's way ----

    def _start_due(self) -> None:
        if self._ending:
            return
        for member in self.members:
            if member.state == "pausing" and time.monotonic() >= member._resume_at:
                device = member.seat
                member.child = Child(
                    "caption.worker",
                    {
                        "CUDA_VISIBLE_DEVICES": device.visible,
                        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                        "TOKENIZERS_PARALLELISM": "false",
                        "OMP_NUM_THREADS": str(device.threads) if device.threads else None,
                        # Threads that spin while they wait take the cores that the loaders need: five times
                        # slower with two threads beside one loader on two cores.
                        "OMP_WAIT_POLICY": "PASSIVE",
                    },
                )
                member.state = "starting"
                member.starts += 1
                member._spent, member.stats = member.seconds, None
                member.child.channel.send(self._setup(device))
                self._selector.register(member.child.channel, selectors.EVENT_READ, member)

    def _grant_turn(self) -> None:
        """Loading takes up to twice the memory, so one loads after the other."""
        if self._ending or any(member.state == "loading" for member in self.members):
            return
        for member in self.members:
            if member.state == "waiting":
                member.state = "loading"
                self.send(member, Load())
                return

    def _receive(self, member: Member, events: list) -> None:
        for message in member.child.channel.receive():
            if isinstance(message, Hello):
                member.state = "waiting"
            elif isinstance(message, Stats):
                member.stats = message
                member.child.forget_words()
            elif isinstance(message, Loaded):
                member.state = "ready"
                member.facts, member.load_seconds = message.facts, message.seconds
                member._failed_loads = 0
                events.append((member, message))
            elif isinstance(message, NotLoaded):
                member._model_error = message
            elif isinstance(message, Broken):
                member._broken = message.message
            elif isinstance(message, Left):
                member.state, member.stats = "left", message.stats
            else:
                events.append((member, message))
        if member.child.channel.ended:
            self._bury(member, events)

    def _bury(self, member: Member, events: list) -> None:
        self._selector.unregister(member.child.channel)
        if not member.child.join(5):
            member.child.kill()
            member.child.join(5)
        error = member._model_error
        reason = error.message if error else member._broken or f"its process {member.child.last_words()}"
        member.child.close()
        member.child = None
        renewed, member._renewing = member._renewing, False
        if renewed and not self._ending:
            member._model_error = member._broken = None
            member.state, member._resume_at = "pausing", 0.0
            events.append((member, Renewed()))
            return
        if self._ending and member.state != "ready":
            member.state = "left"
        if member.state == "left":
            return
        loaded = member.state == "ready"
        member._fruitless += 1
        member._failed_loads += not loaded
        pause = min(LONGEST_PAUSE, 2.0 ** (member._fruitless - 2)) if member._fruitless > 1 else 0.0
        member._resume_at = time.monotonic() + pause
        member._model_error = member._broken = None
        member.state = "pausing"
        hopeless = error is not None and error.error in _HOPELESS
        final = hopeless or member._failed_loads >= FAILED_LOADS or member._fruitless >= FRUITLESS_DEATHS
        events.append((member, Died(reason, final)))
        if final:
            member.state = "gone"
            events.append((member, GivenUp(reason, error.error if error else None)))
        elif self._ending:
            member.state = "left"

    def _write_when_possible(self, member: Member) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.child.channel.unsent else 0)
        if self._selector.get_key(member.child.channel).events != wanted:
            self._selector.modify(member.child.channel, wanted, member)
