"""Dispatcher: from items to ended items: handed out, taken back from the dead, split, tried again. It keeps no rows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from caption import retry
from caption.crew import Crew, Died, GivenUp, Member, Renewed, Retired
from caption.errors import CaptionError, Flagged, ModelDoesNotLoad, ModelNotUsable, NoWorkerLeft, WorkerDied
from caption.flagpolicy import FlagPolicy
from caption.item import Item
from caption.leases import Leases
from caption.log import note
from caption.messages import Adapted, Batch, Captioned, Drain, Failed, Loaded, Overflowed, Result, Started
from caption.precision import Precision
from caption.schedule import LARGEST_BATCH, Schedule, Standing, adapter_of, usual_slots
from caption.settings import Settings
from caption.suspects import Suspects


class Ending(NamedTuple):
    """An item has come to its end.

    Attributes:
        worker: name of the seat that it ended on.
        item: with all of its tries.
        result: its caption; None if it failed.
        error, message: class and words of the ItemError, if it failed.
    """

    worker: str
    item: Item
    result: Result | None
    error: str = ""
    message: str = ""


class Dispatcher:
    """Args:
        schedule: the items to do, with the names of the crew's seats.
        say: takes sentences for the user.
        loaded: called when a worker has loaded its model.
        remedy: the user's next step when no worker can go on.

    Attributes:
        draining: nothing is handed out any more.
        began, first_start: when the first worker was let begin, and when the first images entered an engine, by
            ``time.monotonic``; or None.
        adapter_loads: how often a worker took another LoRA adapter; adapter_seconds: how long that took.
    """

    def __init__(
        self,
        settings: Settings,
        schedule: Schedule,
        crew: Crew,
        precision: Precision,
        say: Callable[[str], None],
        loaded: Callable[[], None] = lambda: None,
        remedy: str = "",
    ):
        self._settings, self._schedule, self._crew, self._precision = settings, schedule, crew, precision
        self._say, self._loaded, self._remedy = say, loaded, remedy
        self._leases = Leases()
        self._owners: dict[int, str] = {}  # item index -> the seat that took it from the schedule
        self._flags = FlagPolicy(settings)
        self._suspects = Suspects()
        self._endings: list[Ending] = []
        self._failure: CaptionError | None = None
        self._remarks: set[str] = set()
        self._deserted: tuple[str, float] | None = None  # seat that went last, and when, while others may still come
        self._may_begin = self.draining = False
        self.began: float | None = None
        self.first_start: float | None = None
        self.adapter_loads, self.adapter_seconds = 0, 0.0

    @property
    def busy(self) -> bool:
        """Whether there is anything that has not ended."""
        return bool(self._schedule.pending or self._suspects or self._leases)

    def drain(self) -> None:
        """What is inside the engines is finished, all else stays undone."""
        self.draining = True
        self._crew.tell_all(Drain())

    # ---- hand out ----

    def hand_out(self) -> None:
        """Gives each worker as much as it should hold, and lets those begin that may. Who has loaded its model prepares
        pictures while others load theirs.

        Raises:
            ModelNotUsable, ModelDoesNotLoad, NoWorkerLeft: nobody can go on, and something is left to do.
        """
        if self._failure and self.busy:
            raise self._failure
        self._take_in()
        self._let_begin()
        working = self._working()
        hungry = [member for member in self._crew.members if member.loaded]
        sharing = len(hungry) if self._may_begin else len(working)
        # A batch each in turn: the first must not take what the others could begin with.
        while hungry and (self._schedule.pending or self._suspects):
            hungry = [member for member in hungry if self._feed(member, working, sharing)]

    def _let_begin(self) -> None:
        self._may_begin = self._may_begin or self._settings.start == "each" or self._crew.assembled
        for member in self._crew.members:
            if self._may_begin and member.state == "ready" and not member.begun:
                self.began = self.began or time.monotonic()
                self._crew.begin(member)

    def _take_in(self) -> None:
        """Workers of machines that have joined; when nobody else is left, they take over all that there is to do."""
        if not self._may_begin:
            return
        if came := self._crew.take_in():
            self._say(f"{', '.join(member.name for member in came)} joined.")
        for member in came:
            self._schedule.join(member.name)
        if not self._deserted:
            return
        name, since = self._deserted
        if came:
            self._deserted = None
            self._schedule.leave(name)
        elif self.busy and time.monotonic() - since > self._crew.patience:
            raise NoWorkerLeft(f"no worker has come for {self._crew.patience:.0f} s after the last", self._remedy)

    @property
    def places(self) -> int:
        """Images side by side in all engines."""
        return sum(self._slots(member) for member in self._crew.members if not member.gone)

    def _slots(self, member: Member) -> int:
        known = self._settings.batch_size or (member.stats and member.stats.slots)
        return known or usual_slots(member.seat.device)

    def _working(self) -> set[str]:
        """Seats that have, or will get, a worker."""
        return {member.name for member in self._crew.members if not member.gone}

    def _feed(self, member: Member, working: Collection[str], sharing: int) -> bool:
        """Gives the worker a batch, if it should have one and there is one.

        working: seats that have, or will get, a worker; sharing: how many share what there is to do.
        """
        slots = self._slots(member)
        unstarted = self._leases.unstarted(member.name)
        free = 2 * slots - unstarted
        if free <= 0 or (unstarted > slots and free < min(LARGEST_BATCH, slots) // 2):
            return False  # a few images more are no message of their own
        want = min(slots, LARGEST_BATCH, free)
        if member.doubtful:  # its seat, or several images in a row? One that nobody suspects will show
            want = 1
            if self._leases.holds(member.name):
                return False
        elif self._give_suspects(member, working):
            return True
        standing = Standing(slots, sharing, unstarted, self._leases.all_unstarted)
        batch = self._schedule.take(member.name, want, standing)
        if not batch:
            return member.doubtful and self._give_suspects(member, working)
        for item in batch:
            self._owners[item.index] = member.name
        self._give(member, batch, alone=False)
        return True

    def _give_suspects(self, member: Member, working: Collection[str]) -> bool:
        """Gives the worker a group that runs by itself, if there is one for it."""
        group = self._suspects.take(member.name, working)
        if group:
            self._give(member, group, alone=True)
        return bool(group)

    def _give(self, member: Member, items: Sequence[Item], alone: bool) -> None:
        self._crew.send(member, Batch(self._leases.grant(member.name, items, alone), tuple(items), alone))

    # ---- collect ----

    def collect(self, timeout: float) -> list[Ending]:
        """What has ended by the messages that are there, or come within ``timeout`` seconds."""
        self._endings = []
        for member, message in self._crew.poll(timeout):
            self._handle(member, message)
        return self._endings

    def _handle(self, member: Member, message: object) -> None:
        if isinstance(message, Started):
            self.first_start = self.first_start or time.monotonic()
            self._leases.start(message.refs)
        elif isinstance(message, Captioned):
            self._keep(member, message)
        elif isinstance(message, Failed):
            self._judge(member, message)
        elif isinstance(message, Overflowed):
            self._widen(message)
        elif isinstance(message, Adapted):
            self.adapter_loads += 1
            self.adapter_seconds += message.seconds
        elif isinstance(message, Renewed | Retired):
            held = self._leases.revoke(member.name)
            self._suspects.add_first(held.waiting + held.suspects)
            self._give_back(held.fresh)
            if isinstance(message, Retired):
                self._retire(member)
        elif isinstance(message, Loaded):
            if fallback := message.facts.get("fallback"):
                self._say(f"{member.name}: {fallback}")
            for remark in message.facts.get("remarks", ()):
                if remark not in self._remarks:  # of the model, and so the same of each worker
                    self._remarks.add(remark)
                    self._say(remark)
            self._loaded()
        elif isinstance(message, Died):
            self._take_back(member, message)
        elif isinstance(message, GivenUp):
            self._give_up(member, message)

    def _keep(self, member: Member, message: Captioned) -> None:
        for result in message.results:
            item = self._leases.settle(result.ref)
            if item is None:
                continue  # its lease was revoked: another worker does it or has done it
            member.fruitful()
            if again := self._flags.next_try(item, result):
                self._give_back([again])
            else:
                self._end_with(member, item, result)

    def _end_with(self, member: Member, item: Item, result: Result) -> None:
        """Its caption is this one, unless a flag of it fails the item."""
        if objection := self._flags.objection(result):
            self._end(Ending(member.name, item, None, Flagged.__name__, objection))
        else:
            self._end(Ending(member.name, item, result))

    def _judge(self, member: Member, message: Failed) -> None:
        for failure in message.failures:
            item = self._leases.settle(failure.ref)
            if item is not None:
                member.fruitful()
                self._try_again(member, item, failure.error, failure.message, failure.pixels)

    def _try_again(self, member: Member, item: Item, error: str, text: str, pixels: int = 0) -> None:
        """An item failed by itself: another try, or its end."""
        again = retry.next_try(item, error, self._settings, pixels)
        if again:
            note(f"{item.id} is tried again: {error}: {text}", member.name)
            if again.attempts > 1:
                self._suspects.add_first([[again]])  # to its end, before the seat's deaths are too many
            else:
                self._suspects.add([again])
        elif before := self._flags.before(item):
            self._end_with(member, *before)
        else:
            self._end(Ending(member.name, item, None, error, text))

    def _end(self, ending: Ending) -> None:
        self._endings.append(ending)
        self._flags.forget(ending.item)
        self._suspects.forget(ending.item)
        self._schedule.ended(self._owners.pop(ending.item.index), 1, time.monotonic())

    def _take_back(self, member: Member, death: Died) -> None:
        count, held = self._leases.holds(member.name), self._leases.revoke(member.name)
        if not (self.draining or death.final):
            again = f"; the {count} images that it held are done again" if count else ""
            self._say(f"{member.name}: the worker is gone, {death.reason}{again}.")
        self._give_back(held.fresh)
        self._suspects.add_first(held.waiting)
        if death.blameless or self.draining:
            self._suspects.add_first(held.suspects)
            return
        inside = [item for group in held.suspects for item in group]
        self._suspects.inside_at_death(member.name, inside)
        if len(inside) == 1 and self._suspects.convicted(inside[0], self._working()):
            self._try_again(member, inside[0], WorkerDied.__name__, death.reason)
            return
        for group in held.suspects:
            self._suspects.split(group)

    def _widen(self, message: Overflowed) -> None:
        """The whole job goes on in numbers of a larger range, and these images are done again."""
        self._give_back([item for item in map(self._leases.settle, message.refs) if item is not None])
        if not self._precision.switched:
            self._precision.switch()
            self._say(
                f"fp16 is too narrow for this model: numbers left its range. From here on the job runs in "
                f"{self._precision.dtype}, which its captions are flagged with; the image that showed it is done again."
            )
            if not self.draining:
                self._crew.renew()

    def _give_back(self, items: list[Item]) -> None:
        """Items that are to be done as if nobody had tried."""
        by_owner: dict[str, list[Item]] = {}
        for item in items:
            by_owner.setdefault(self._owners[item.index], []).append(item)
        for owner, theirs in by_owner.items():
            self._put_back(owner, theirs)

    def _put_back(self, owner: str, items: list[Item]) -> None:
        """Items nobody started go back to their shard; of a shard that was given up, they run as groups."""
        if owner in self._schedule.sizes():
            for item in items:
                del self._owners[item.index]
            self._schedule.give_back(owner, items)
        else:
            for _, group in itertools.groupby(items, adapter_of):
                self._suspects.add(list(group))

    def _retire(self, member: Member) -> None:
        """It was one too many; unless all others were given up while it ended."""
        if self._crew.working:
            self._schedule.leave(member.name)
        elif not self.draining:
            reason = f"no worker can go on (all others were lost while {member.name} was taken off)"
            self._failure = NoWorkerLeft(reason, self._remedy)

    def _give_up(self, member: Member, message: GivenUp) -> None:
        if self.draining:
            return
        if self._crew.working:
            self._say(f"{member.name} is given up, the others do its part: {message.reason}")
            self._schedule.leave(member.name)
        elif message.model_error in ("NotFound", "NeedsRemoteCode", "NoSafetensors", "NotAVisionModel", "DoesNotFit"):
            self._failure = ModelNotUsable(message.reason)
        elif message.model_error == "DoesNotLoad":
            self._failure = ModelDoesNotLoad(message.reason)
        elif message.lost and self._crew.patience:
            self._deserted = member.name, time.monotonic()
            self._say(
                f"{member.name} was the last worker: waiting {self._crew.patience:.0f} s for a node to join "
                f"({message.reason})."
            )
        else:
            self._failure = NoWorkerLeft(f"no worker can go on ({member.name}: {message.reason})", self._remedy)
