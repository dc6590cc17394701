"""Coordinator: plan, feed, collect, commit. The only writer of rows; imports neither torch nor transformers."""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Sequence

from caption import idle, retry
from caption.adapter import AdapterCheck, Adapters
from caption.crew import Crew, Died, GivenUp, Member, Renewed
from caption.errors import Flagged, InputError, ModelDoesNotLoad, ModelNotUsable, NoWorkerLeft, WorkerDied
from caption.feed import WINDOW, Count, Feed
from caption.flagpolicy import FlagPolicy
from caption.item import Item
from caption.leases import Leases
from caption.messages import Adapted, Batch, Captioned, Drain, Failed, Finish, Loaded, Overflowed, Result, Started
from caption.outcome import Outcome
from caption.outputs.rows import CAPTIONS, FAILED, caption_row, failed_row
from caption.precision import Precision
from caption.progress import Progress, Snapshot, WorkerProgress
from caption.runfile import RunFile
from caption.schedule import FEW, LARGEST_BATCH, MANY, Schedule, adapter_of
from caption.settings import Settings
from caption.sources import Source
from caption.statsfile import StatsFile
from caption.stop import StopSignals
from caption.twins import Twins
from checkpoint import Record

COMMIT_EVERY = 30.0  # seconds between commits at most
_BEAT_EVERY = 10.0
_INDEX_BYTES = 25  # a row takes this much beside itself
_POLL = 0.2
_LAST_GRACE = 10.0  # seconds that workers have to end after their last word


class Coordinator:
    """One run from its first hand-out to its last commit.

    Args:
        source: the input, for messages.
        feed: the items to do.
        count: the size of the input, for display.
        twins: items that take over the row of an earlier one.
        schedule: empty, with the names of the crew's seats.
        adapters: looks at those that items name.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        feed: Feed,
        count: Count,
        schedule: Schedule,
        record: Record,
        crew: Crew,
        progress: Progress,
        stats: StatsFile,
        run_file: RunFile,
        precision: Precision,
        stop: StopSignals,
        twins: Twins | None = None,
        adapters: AdapterCheck | None = None,
    ):
        self._settings, self._source, self._feed, self._count = settings, source, feed, count
        self._schedule, self._record, self._crew = schedule, record, crew
        self._progress, self._stats, self._run_file, self._stop = progress, stats, run_file, stop
        self._precision = precision
        self._twins = twins or Twins()
        self._adapters = adapters or AdapterCheck(Adapters())
        self._leases = Leases()
        self._owners: dict[int, str] = {}  # item index -> the seat that took it from the schedule
        self._flags = FlagPolicy(settings)
        self._suspects: deque[list[Item]] = deque()  # groups that run alone, because one of each may be to blame
        self._per_worker = {member.name: Counter() for member in crew.members}
        self._begin = time.monotonic()
        self._last_commit = self._last_beat = self._begin
        self._first_hand_out: float | None = None
        self._draining = self._unnoted = False
        self._row_bytes = 0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Until all is done or a stop was asked for.

        Raises:
            ModelNotUsable, ModelDoesNotLoad, NoWorkerLeft: nobody can go on; closing the record commits all rows.
            checkpoint.Error, OSError: the record can't be written any more.
        """
        behind = self._start_reading()
        while not self._ended():
            for member, message in self._crew.poll(0 if behind else _POLL):
                self._handle(member, message)
            if self._stop.asked and not self._draining:
                self._drain()
            if self._stop.asked > 1:
                self._crew.kill_all()
            if not self._draining:
                behind = self._twins.waiting < WINDOW and self._feed.fill(self._schedule, self._sort_out)
                self._hand_out()
            self._look_after_record()
            self._show()
        self._finish()
        return self.outcome

    def _start_reading(self) -> bool:
        """Looks for work before any worker is started: a job that is done, or has no input, needs none."""
        while not (self._schedule.pending or self._stop.asked):
            if not self._feed.fill(self._schedule, self._sort_out):
                break
        if self._feed.ended and not self._feed.read:
            reason = f" ({self._source.warnings[0]})" if self._source.warnings else ""
            problem = f"there are no pictures in the {self._source.described}{reason}"
            raise InputError(problem, self._source.takes)
        return not self._feed.ended

    def _sort_out(self, items: list[Item]) -> list[Item]:
        """Those of the items that are to be computed; what needs no computing gets its row at once."""
        items = self._adapters.mark(items)
        faulty = [item for item in items if item.fault]
        items, rows = self._twins.hold([item for item in items if not item.fault] if faulty else items)
        failed = [(item.id, failed_row(item, *item.fault)) for item in faulty] + rows.get(FAILED, [])
        if failed:
            self._record.append(FAILED, failed)
            self.outcome.failed += len(failed)
            self.outcome.errors.update(item.fault[0] for item in faulty)
        if captioned := rows.get(CAPTIONS, []):
            self._record.append(CAPTIONS, captioned)
            self.outcome.captioned += len(captioned)
            self._row_bytes += sum(len(row) for _, row in captioned)
        return items

    def bytes_to_come(self) -> int:
        """An estimate of the disk space that the rest of the job takes: rows like those so far, and their index."""
        if not self.outcome.captioned:
            return 0
        total = self._feed.read if self._feed.ended else self._count.total or self._feed.read
        rest = total - self._feed.skipped - self.outcome.captioned - self.outcome.failed
        return int(rest * (self._row_bytes / self.outcome.captioned + _INDEX_BYTES))

    def _ended(self) -> bool:
        if self._draining:
            return not self._crew.working
        return self._all_done()

    def _all_done(self) -> bool:
        open_ = self._schedule.pending or self._suspects or self._leases or self._twins.waiting
        return self._feed.ended and not open_

    def _drain(self) -> None:
        self._draining = True
        self._progress.say("Stopping: the batches in flight are finished. Ctrl-C again stops at once.")
        self._crew.tell_all(Drain())

    def _finish(self) -> None:
        self._crew.tell_all(Finish())
        deadline = time.monotonic() + _LAST_GRACE
        while self._crew.working and time.monotonic() < deadline and self._stop.asked < 2:
            self._crew.poll(_POLL)
        self._record.commit()
        self._show(last=True)
        self.outcome.skipped = self._feed.skipped
        self.outcome.complete = self._all_done()
        self.outcome.total_seconds = time.monotonic() - self._begin
        self.outcome.idle = {
            member.name: idle.shares(member.seconds, self.outcome.total_seconds) for member in self._crew.members
        }

    # ---- hand out ----

    def _hand_out(self) -> None:
        for member in self._crew.members:
            known = self._settings.batch_size or (member.stats and member.stats.slots)
            slots = known or (MANY if member.seat.device == "cuda" else FEW)
            while member.state == "ready" and (free := 2 * slots - self._leases.unstarted(member.name)) > 0:
                if self._suspects:
                    self._give(member, self._suspects.popleft(), alone=True)
                    continue
                batch = self._schedule.take(member.name, min(slots, LARGEST_BATCH, free))
                if not batch:
                    break
                for item in batch:
                    self._owners[item.index] = member.name
                self._give(member, batch, alone=False)

    def _give(self, member: Member, items: Sequence[Item], alone: bool) -> None:
        self._first_hand_out = self._first_hand_out or time.monotonic()
        self._crew.send(member, Batch(self._leases.grant(member.name, items, alone), tuple(items), alone))

    # ---- collect ----

    def _handle(self, member: Member, message: object) -> None:
        if isinstance(message, Started):
            self._leases.start(message.refs)
        elif isinstance(message, Captioned):
            self._keep(member, message)
        elif isinstance(message, Failed):
            self._judge(member, message)
        elif isinstance(message, Overflowed):
            self._widen(message)
        elif isinstance(message, Adapted):
            self.outcome.adapter_loads += 1
            self.outcome.adapter_seconds += message.seconds
        elif isinstance(message, Renewed):
            held = self._leases.revoke(member.name)
            self._suspects.extendleft(reversed(held.waiting + held.suspects))
            self._give_back(held.fresh)
        elif isinstance(message, Loaded):
            if fallback := message.facts.get("fallback"):
                self._progress.say(f"{member.name}: {fallback}")
            self._unnoted = True  # written when the worker has its first images: that can wait long for the disk
        elif isinstance(message, Died):
            self._take_back(member, message)
        elif isinstance(message, GivenUp):
            self._give_up(member, message)

    def _keep(self, member: Member, message: Captioned) -> None:
        rows = []
        for result in message.results:
            item = self._leases.settle(result.ref)
            if item is None:
                continue  # its lease was revoked: another worker does it or has done it
            if again := self._flags.next_try(item, result):
                member.fruitful()
                self._give_back([again])
            else:
                rows += self._ended_with(member, item, result)
        self._append(member, rows)

    def _ended_with(self, member: Member, item: Item, result: Result) -> list[tuple[str, bytes]]:
        """The row of a caption; none if a flag of it fails the item."""
        if objection := self._flags.objection(result):
            self._fail(member, item, Flagged.__name__, objection)
            return []
        self.outcome.flags.update(result.flags)
        self._end(item)
        return self._twins.settle(item, CAPTIONS, caption_row(item, result))

    def _append(self, member: Member, rows: list[tuple[str, bytes]]) -> None:
        if not rows:
            return
        self._record.append(CAPTIONS, rows)
        if self.outcome.first_caption is None:
            self.outcome.first_caption = time.monotonic() - self._begin
        self.outcome.seconds = time.monotonic() - self._first_hand_out
        self.outcome.captioned += len(rows)
        self._row_bytes += sum(len(row) for _, row in rows)
        self._per_worker[member.name]["done"] += len(rows)
        member.fruitful()

    def _judge(self, member: Member, message: Failed) -> None:
        for failure in message.failures:
            item = self._leases.settle(failure.ref)
            if item is not None:
                member.fruitful()
                self._try_again(member, item, failure.error, failure.message, failure.pixels)

    def _try_again(self, member: Member, item: Item, error: str, text: str, pixels: int = 0) -> None:
        """An item failed by itself: another try, or its row in ``failed.jsonl``."""
        again = retry.next_try(item, error, self._settings, pixels)
        if again:
            self._suspects.append([again])
        elif before := self._flags.before(item):
            self._append(member, self._ended_with(member, *before))
        else:
            self._fail(member, item, error, text)

    def _fail(self, member: Member, item: Item, error: str, text: str) -> None:
        rows = self._twins.settle(item, FAILED, failed_row(item, error, text))
        self._record.append(FAILED, rows)
        self.outcome.failed += len(rows)
        self.outcome.errors[error] += len(rows)
        self._per_worker[member.name]["failed"] += 1
        self._end(item)

    def _end(self, item: Item) -> None:
        self._flags.forget(item)
        self._schedule.ended(self._owners.pop(item.index), 1)

    def _take_back(self, member: Member, death: Died) -> None:
        count, held = self._leases.holds(member.name), self._leases.revoke(member.name)
        if not (self._draining or death.final):
            again = f"; the {count} images that it held are done again" if count else ""
            self._progress.say(f"{member.name}: the worker is gone, {death.reason}{again}.")
        self._give_back(held.fresh)
        self._suspects.extendleft(reversed(held.waiting))
        for group in held.suspects:
            if len(group) > 1:
                half = (len(group) + 1) // 2
                self._suspects.extendleft([group[half:], group[:half]])
            elif self._draining:
                self._suspects.append(group)
            else:
                self._try_again(member, group[0], WorkerDied.__name__, death.reason)

    def _widen(self, message: Overflowed) -> None:
        """The whole job goes on in numbers of a larger range, and these images are done again."""
        self._give_back([item for item in map(self._leases.settle, message.refs) if item is not None])
        if not self._precision.switched:
            self._precision.switch()
            self._progress.say(
                f"fp16 is too narrow for this model: numbers left its range. From here on the job runs in "
                f"{self._precision.dtype}, which its captions are flagged with; the image that showed it is done again."
            )
            if not self._draining:
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
            self._suspects += [list(group) for _, group in itertools.groupby(items, adapter_of)]

    def _give_up(self, member: Member, message: GivenUp) -> None:
        if self._draining:
            return
        if self._crew.working:
            self._progress.say(f"{member.name} is given up, the others do its part: {message.reason}")
            self._schedule.leave(member.name)
            return
        if message.model_error in ("NotFound", "NeedsRemoteCode", "NoSafetensors", "NotAVisionModel", "DoesNotFit"):
            raise ModelNotUsable(message.reason)
        if message.model_error == "DoesNotLoad":
            raise ModelDoesNotLoad(message.reason)
        raise NoWorkerLeft(
            f"no worker can go on ({member.name}: {message.reason})",
            "all captions so far are saved; mend this and type the same command again",
        )

    # ---- record and display ----

    def _look_after_record(self) -> None:
        if self._unnoted:
            self._run_file.note(workers={one.name: one.facts for one in self._crew.members if one.facts})
            self._unnoted = False
        now = time.monotonic()
        waiting = self._record.uncommitted
        if waiting >= self._settings.checkpoint_every or (waiting and now - self._last_commit >= COMMIT_EVERY):
            self._record.commit()
            self._last_commit = time.monotonic()
        elif not waiting:
            self._last_commit = now
        if now - self._last_beat >= _BEAT_EVERY:
            self._record.beat()
            self._last_beat = now
        self._stats.add(self.outcome.captioned, self.outcome.failed, self._crew.members)

    def _show(self, last: bool = False) -> None:
        total = self._feed.read if self._feed.ended else self._count.total
        self._progress.show(
            Snapshot(
                total,
                self._feed.skipped,
                self.outcome.captioned,
                self.outcome.failed,
                [
                    WorkerProgress(
                        member.name,
                        member.stats.stage if member.stats and member.state == "ready" else member.state,
                        self._per_worker[member.name]["done"],
                        self._per_worker[member.name]["failed"],
                    )
                    for member in self._crew.members
                ],
            ),
            last,
        )
