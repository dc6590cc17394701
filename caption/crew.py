"""Crew: the workers of a run, one a seat: started, given their turn to load, watched, replaced when they die.

It starts processes and carries messages; what the messages mean for items is the coordinator's business.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from caption.devices import Seat
from caption.launch import Launcher, Local
from caption.log import note
from caption.messages import Begin, Broken, Drain, Finish, Hello, Left, Load, Loaded, NotLoaded, Ready, Setup, Stats
from caption.process import LAST_SECONDS, Child
from caption.stall import StallWatch

FAILED_LOADS = 3  # a seat whose worker dies this often in a row before it has loaded is given up
FRUITLESS_DEATHS = 10  # ... or this often in a row without one result in between
LONGEST_PAUSE = 60.0  # seconds between two tries on one seat
_WATCH_EVERY = 0.2  # seconds between two looks for workers that hang
_HOPELESS = {"NotFound", "NeedsRemoteCode", "NoSafetensors", "NotAVisionModel", "DoesNotFit", "DoesNotLoad"}


class Died(NamedTuple):
    """A worker is gone, and all that it had sent has been handed out before this.

    Attributes:
        final: GivenUp follows.
        blameless: nothing that it held can be the reason.
    """

    reason: str
    final: bool
    blameless: bool = False


class Renewed(NamedTuple):
    """A worker has left because it was asked to, and the next one takes its seat. What it still held was not begun."""


class Retired(NamedTuple):
    """As Renewed, but nobody follows."""


class GivenUp(NamedTuple):
    """A seat gets no worker any more; follows Died."""

    reason: str
    model_error: str | None  # class name, when the model is the reason
    lost: bool = False  # its machine or GPU is gone


class Member:
    """A seat and the worker that sits on it.

    Attributes:
        state: "pausing", "starting" (until Hello), "waiting" (for its turn), "loading", "warming" (up), "ready",
            "renewing" (it ends, and another follows), "retiring" (it ends), "left" or "gone".
        begun: whether the present worker was told to begin.
        stats: the last Stats of the present worker.
        facts: what its engine said of itself.
        said_hello: when the present worker's process had started, by ``time.monotonic``.
        load_laps: seconds from then until it was ready, part by part.
    """

    def __init__(self, seat: Seat):
        self.seat = seat
        self.state = "pausing"
        self.child: Child | None = None
        self.stats: Stats | None = None
        self.facts: dict = {}
        self.load_seconds = self.said_hello = 0.0
        self.load_laps: dict[str, float] = {}
        self.starts = 0
        self.begun = False
        self._resume_at = 0.0
        self._failed_loads = self._fruitless = 0
        self._renewing = self._retiring = self._stopped = False
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
    def loaded(self) -> bool:
        """Whether it can prepare pictures, and caption them when it may begin."""
        return self.state in ("warming", "ready")

    @property
    def gone(self) -> bool:
        return self.state in ("left", "gone")

    @property
    def went_with_node(self) -> bool:
        """Whether there is nothing more to show of it: nodes of a cluster come and go for as long as a run lasts."""
        return self.state == "gone" and bool(self.seat.host)

    def note_words(self) -> None:
        """What its process printed goes into the log."""
        for line in self.child.new_words():
            note(line, self.name)

    def fruitful(self) -> None:
        """It brought a result: earlier deaths no longer count."""
        self._fruitless = 0

    @property
    def doubtful(self) -> bool:
        """Whether its workers have died so often without a result in between that the seat may be to blame."""
        return self._fruitless >= FRUITLESS_DEATHS // 2


class Crew:
    """Args:
    seats: where workers run.
    setup: makes the first message for a seat's worker.
    watch: tells which workers hang; None: nobody is watched.
    launcher: starts them; None: on this machine.
    """

    def __init__(
        self,
        seats: Sequence[Seat],
        setup: Callable[[Seat], Setup],
        watch: StallWatch | None = None,
        launcher: Launcher | None = None,
    ):
        self.members = [Member(seat) for seat in seats]
        self._setup, self._launcher = setup, launcher or Local(seats)
        self._watch = watch or StallWatch(0)
        self._selector = selectors.DefaultSelector()
        self._bell, self._rope = socket.socketpair()
        self._rope.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._ending, self._watched = False, 0.0

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def working(self) -> bool:
        """Whether any seat has, or will get, a worker."""
        return any(not member.gone for member in self.members)

    @property
    def assembled(self) -> bool:
        """Whether no seat is still on the way to its first image: each has a worker that is ready, or is given up."""
        return all(member.state == "ready" or member.gone for member in self.members)

    def send(self, member: Member, message: object) -> None:
        member.child.channel.send(message)
        self._write_when_possible(member)

    def begin(self, member: Member) -> None:
        """Lets a worker that is ready caption what it holds."""
        member.begun = True
        self.send(member, Begin())

    def tell_all(self, message: Finish | Drain) -> None:
        """The last word to all workers: nobody is started any more."""
        self._ending = True
        for member in self.members:
            if member.state == "ready":
                self.send(member, message)
            elif member.state in ("starting", "waiting", "loading", "warming"):
                member.child.kill()  # it has begun nothing, and a load can take minutes
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
                    member.child.kill()  # it has begun nothing

    def add(self, seat: Seat) -> Member:
        """One more, while the others work."""
        self.members.append(Member(seat))
        return self.members[-1]

    @property
    def patience(self) -> float:
        """Seconds in which seats may still come when all are gone; 0: none will."""
        return self._launcher.patience

    def take_in(self) -> list[Member]:
        """Those for whom a machine has joined since the last call."""
        return [self.add(seat) for seat in self._launcher.joined()]

    def retire(self, member: Member) -> None:
        """Lets a worker that is ready finish what is inside its engine, and nobody follow it."""
        member._retiring, member.state = True, "retiring"
        self.send(member, Drain())

    def kill_all(self) -> None:
        for member in self.members:
            if member.child:
                member.child.kill()

    def wake(self) -> None:
        """Ends a ``poll`` that waits; for any thread."""
        with contextlib.suppress(OSError):  # full of calls already, or closed
            self._rope.send(b"x")

    def poll(self, timeout: float) -> list[tuple[Member, object]]:
        """Waits up to ``timeout`` seconds; returns what came: messages about items, Loaded, Died, GivenUp."""
        self._start_due()
        events: list[tuple[Member, object]] = []
        for key, mask in self._selector.select(timeout):
            member = key.data
            if member is None:
                self._bell.recv(1 << 16)
                continue
            if mask & selectors.EVENT_WRITE:
                member.child.channel.flush()
            if mask & selectors.EVENT_READ:
                self._receive(member, events)
            if member.child:
                self._write_when_possible(member)
        self._grant_turn()
        self._end_stalled(events)
        return events

    def close(self) -> None:
        """Ends all processes; those told to end before get no more time."""
        for member in self.members:
            if member.child:
                member.child.close()
                member.child = None
        self._selector.close()
        self._bell.close()
        self._rope.close()

    # ---- one worker's way ----

    def _start_due(self) -> None:
        if self._ending:
            return
        for member in self.members:
            if member.state == "pausing" and time.monotonic() >= member._resume_at:
                device, setup = member.seat, self._setup(member.seat)
                member.child = self._launcher.start(
                    device,
                    {
                        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                        "TOKENIZERS_PARALLELISM": "false",
                        "OMP_NUM_THREADS": str(device.threads) if device.threads else None,
                        # Threads that spin while they wait take the cores that the loaders need: five times
                        # slower with two threads beside one loader on two cores.
                        "OMP_WAIT_POLICY": "PASSIVE",
                    },
                    [] if setup.shared is None else [setup.shared],
                )
                member.state = "starting"
                member.starts += 1
                member._spent, member.stats, member.begun = member.seconds, None, False
                member.child.channel.send(setup)
                self._selector.register(member.child.channel, selectors.EVENT_READ, member)

    def _grant_turn(self) -> None:
        """Loading takes up to twice the memory, so on each machine one loads after the other."""
        if self._ending:
            return
        loading = {member.seat.host for member in self.members if member.state == "loading"}
        for member in self.members:
            if member.state == "waiting" and member.seat.host not in loading:
                member.state = "loading"
                loading.add(member.seat.host)
                self.send(member, Load())

    def _end_stalled(self, events: list) -> None:
        now = time.monotonic()
        if now - self._watched < _WATCH_EVERY:
            return  # with hundreds of workers this took most of a look at them
        self._watched = now
        for member in self.members:
            if not member.child:
                continue
            trouble = self._watch.look(member.name, member.state, member.stats, member.child.stopped)
            if not trouble:
                continue
            member._stopped = member.child.stopped()
            place = "its process was stopped" if member._stopped else member.child.whereabouts()
            member._broken = f"{trouble} ({place})" if place else trouble
            member.child.kill()
            self._watch.forget(member.name)
            if not member.child.join(LAST_SECONDS):  # it hangs in the kernel, and so does its end of the channel
                self._receive(member, events)
                if member.child:
                    self._bury(member, events)

    def _receive(self, member: Member, events: list) -> None:
        for message in member.child.channel.receive():
            if isinstance(message, Hello):
                member.state, member.said_hello = "waiting", time.monotonic()
            elif isinstance(message, Stats):
                member.stats = message
                member.note_words()
                member.child.forget_words()
            elif isinstance(message, Loaded):
                member.state = "warming"
                member.facts, member.load_seconds = message.facts, message.seconds
                events.append((member, message))
            elif isinstance(message, Ready):
                member.state, member.load_laps = "ready", message.laps
                member._failed_loads = 0
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
        if not member.child.join(LAST_SECONDS):
            member.child.kill()
        member.note_words()
        error = member._model_error
        reason = error.message if error else member._broken or f"its process {member.child.last_words()}"
        killed = member.child.killed and not member._broken
        blameless, member._stopped = member._stopped or member.child.taken, False
        member.child.close()
        member.child = None
        if member._retiring:
            member.state = "left"
            events.append((member, Retired()))
            return
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
        if not blameless:
            member._fruitless += 1
            # A load that somebody kills, or the kernel for want of memory, may succeed another time.
            member._failed_loads += member.state != "ready" and not killed
        pause = min(LONGEST_PAUSE, 2.0 ** (member._fruitless - 2)) if member._fruitless > 1 else 0.0
        member._resume_at = time.monotonic() + pause
        member._model_error = member._broken = None
        member.state = "pausing"
        hopeless = error is not None and error.error in _HOPELESS
        if lost := self._launcher.lost(member.seat):
            hopeless, reason = True, f"{lost} ({reason})"
        final = hopeless or member._failed_loads >= FAILED_LOADS or member._fruitless >= FRUITLESS_DEATHS
        events.append((member, Died(reason, final, blameless)))
        if final:
            member.state = "gone"
            events.append((member, GivenUp(reason, error.error if error else None, bool(lost))))
        elif self._ending:
            member.state = "left"

    def _write_when_possible(self, member: Member) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.child.channel.unsent else 0)
        if self._selector.get_key(member.child.channel).events != wanted:
            self._selector.modify(member.child.channel, wanted, member)
