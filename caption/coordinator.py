"""Coordinator: feed, collect, commit. The only writer of rows; imports neither torch nor transformers."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from caption import idle, summary
from caption.adapter import AdapterCheck, Adapters
from caption.crew import Crew, Member
from caption.dispatch import Dispatcher, Ending
from caption.errors import InputError
from caption.estimate import INDEX_BYTES
from caption.feed import WINDOW, Count, Feed
from caption.growth import Growth
from caption.item import Item
from caption.laps import Laps
from caption.log import note
from caption.lookout import Lookout
from caption.messages import Finish
from caption.outcome import Outcome
from caption.outputs.rows import CAPTION_FILES, RowFiles
from caption.pace import Pace
from caption.precision import AFTER_FP16, Precision
from caption.runfile import RunFile
from caption.schedule import Schedule
from caption.settings import Settings
from caption.snapshot import Snapshot, WorkerSnapshot
from caption.sources import Source
from caption.stop import StopSignals
from caption.twins import Twins
from checkpoint import Record

_BEAT_EVERY = 10.0
_POLL = 0.2
_NOTE_EVERY = 5.0
_LAST_GRACE = 10.0  # seconds that workers have to end after their last word


class Coordinator:
    """One run from its first hand-out to its last commit.

    Args:
        source: the input, for messages.
        feed: the items to do.
        count: the size of the input, for display.
        twins: items that take over the row of an earlier one.
        laps: of the command so far.
        adapters: looks at those that items name.
        files: where the rows go.
        when_done: called before the workers end, while they still hold their models; not of a run that is stopped.
        schedule: empty, with the names of the crew's seats.
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
        lookout: Lookout,
        run_file: RunFile,
        precision: Precision,
        stop: StopSignals,
        twins: Twins | None = None,
        laps: Laps | None = None,
        adapters: AdapterCheck | None = None,
        files: RowFiles = CAPTION_FILES,
        when_done: Callable[[], None] | None = None,
    ):
        self._settings, self._source, self._feed, self._count = settings, source, feed, count
        self._schedule, self._record, self._crew = schedule, record, crew
        self._lookout, self._run_file, self._stop = lookout, run_file, stop
        self._files, self._when_done = files, when_done
        self._twins = twins or Twins()
        self._adapters = adapters or AdapterCheck(Adapters())
        self._dispatcher = Dispatcher(
            settings, schedule, crew, precision, lookout.say, self._has_loaded,
            "all captions so far are saved; mend this and type the same command again",
        )  # fmt: skip
        self._laps = laps or Laps()
        self._per_worker: dict[str, Counter] = defaultdict(Counter)
        auto = settings.workers_per_gpu is None
        self._growth = Growth(crew, schedule, lookout.say) if auto else None
        self._begin = time.monotonic()
        self._pace, self._last_beat = Pace(settings.checkpoint_every), self._begin
        self._announced = False
        self._noted = 0.0
        self._unnoted = False  # what workers said of themselves is not in run.json yet
        self._row_bytes = 0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Until all is done or a stop was asked for.

        Raises:
            ModelNotUsable, ModelDoesNotLoad, NoWorkerLeft: nobody can go on; closing the record commits all rows.
            checkpoint.Error, OSError: the record can't be written any more.
        """
        behind = self._start_reading()
        self._laps.end("input")
        while not self._ended():
            self._keep(self._dispatcher.collect(0 if behind else _POLL))
            if self._stop.asked and not self._dispatcher.draining:
                grace = self._settings.grace
                given = "" if grace is None else f", if that takes no more than {grace:g} s"
                self._lookout.say(f"Stopping: the batches in flight are finished{given}. Ctrl-C again stops at once.")
                self._dispatcher.drain()
            if self._at_once:
                self._crew.kill_all()
            if not self._dispatcher.draining:
                behind = self._twins.waiting < WINDOW and self._feed.fill(self._schedule, self._sort_out)
                if not self._announced and (not behind or any(one.loaded for one in self._crew.members)):
                    self._announced = True
                    summary.announce(self._lookout, self._schedule, self._feed)
                self._dispatcher.hand_out()
                if self._growth:
                    self._growth.look(self.outcome.captioned, self._schedule.pending if self._feed.ended else None)
            self._look_after_record()
            self._lookout.look(self._snapshot)
        self._finish()
        return self.outcome

    def _start_reading(self) -> bool:
        """Looks for work before any worker is started: a job that is done, or has no input, needs none."""
        while not (self._schedule.pending or self._stop.asked):
            if self._feed.read:  # what millions that are done, or that fail, take: minutes
                self._look_after_record()
                self._lookout.look(self._snapshot)
            if not self._feed.fill(self._schedule, self._sort_out):
                break
        if self._feed.ended and not (self._feed.read or self._source.elsewhere):
            reason = f" ({self._source.warnings[0]})" if self._source.warnings else ""
            problem = f"there are no pictures in the {self._source.described}{reason}"
            raise InputError(problem, self._source.takes)
        return not self._feed.ended

    def _sort_out(self, items: list[Item]) -> list[Item]:
        """Those of the items that are to be computed; what needs no computing gets its row at once."""
        items = self._adapters.mark(items)
        faulty = [item for item in items if item.fault]
        items, rows = self._twins.hold([item for item in items if not item.fault] if faulty else items)
        failed = [(item.id, self._files.failed_row(item, *item.fault)) for item in faulty]
        failed += rows.get(self._files.failed, [])
        if failed:
            self._record.append(self._files.failed, failed)
            self.outcome.failed += len(failed)
            self.outcome.errors.update(item.fault[0] for item in faulty)
        if captioned := rows.get(self._files.done, []):
            self._record.append(self._files.done, captioned)
            self.outcome.captioned += len(captioned)
            self._row_bytes += sum(len(row) for _, row in captioned)
        return items

    def bytes_to_come(self) -> int:
        """An estimate of the disk space that the rest of the job takes: rows like those so far, and their index."""
        if not self.outcome.captioned:
            return 0
        total = self._feed.read if self._feed.ended else self._count.total or self._feed.read
        rest = total - self._feed.skipped - self.outcome.captioned - self.outcome.failed
        return int(rest * (self._row_bytes / self.outcome.captioned + INDEX_BYTES))

    def _ended(self) -> bool:
        if self._dispatcher.draining:
            return not self._crew.working
        return self._all_done()

    @property
    def _at_once(self) -> bool:
        """Whether what is inside the engines gets no more time: it is done again by the next run."""
        grace = self._settings.grace
        return self._stop.asked > 1 or (grace is not None and self._stop.waited > grace)

    def _all_done(self) -> bool:
        return self._feed.ended and not (self._dispatcher.busy or self._twins.waiting)

    def _has_loaded(self) -> None:
        self._unnoted = True  # written when the worker has its first images: that can wait long for the disk

    def _finish(self) -> None:
        if self._when_done and not self._stop.asked and any(member.child for member in self._crew.members):
            self._when_done()
        self._crew.tell_all(Finish())
        deadline = time.monotonic() + _LAST_GRACE
        while self._crew.working and time.monotonic() < deadline and not self._at_once:
            self._crew.poll(_POLL)
        self._record.commit()
        if self._unnoted:
            self._note_workers()
        self._lookout.look(self._snapshot, last=True)
        self.outcome.skipped = self._feed.skipped
        self.outcome.adapter_loads = self._dispatcher.adapter_loads
        self.outcome.adapter_seconds = self._dispatcher.adapter_seconds
        self.outcome.rounds = self._schedule.rounds
        self.outcome.complete = self._all_done()
        self.outcome.total_seconds = time.monotonic() - self._begin
        self.outcome.idle = {
            member.name: idle.shares(member.seconds, self.outcome.total_seconds) for member in self._crew.members
        }

    # ---- collect ----

    def _keep(self, endings: list[Ending]) -> None:
        """Rows of what has ended, and of the twins that waited for it."""
        captioned, failed = [], []
        for worker, item, result, error, text in endings:
            if result:
                rows = self._twins.settle(item, self._files.done, self._files.row(item, result))
                captioned += rows
                if result.flags:
                    self.outcome.flags.update(result.flags)
                    self.outcome.flagged += bool(set(result.flags) - {AFTER_FP16})
                self._per_worker[worker]["done"] += len(rows)
            else:
                note(f"{item.id} failed: {error}: {text}", worker, logging.WARNING)
                rows = self._twins.settle(item, self._files.failed, self._files.failed_row(item, error, text))
                failed += rows
                self.outcome.errors[error] += len(rows)
                self._per_worker[worker]["failed"] += len(rows)
        if captioned:
            self._append_captions(captioned)
            if not self.outcome.until_first_caption:
                self._note_beginning(endings[0].worker)
        if failed:
            self._record.append(self._files.failed, failed)
            self.outcome.failed += len(failed)

    def _append_captions(self, rows: list[tuple[str, bytes]]) -> None:
        self._record.append(self._files.done, rows)
        now = time.monotonic()
        if self.outcome.first_caption is None:
            self.outcome.first_caption = now - self._begin
        self.outcome.seconds = now - self._dispatcher.began
        self.outcome.captioned += len(rows)
        self._row_bytes += sum(len(row) for _, row in rows)

    def _note_beginning(self, worker: str) -> None:
        """Where the time went until the first caption, which this worker has made."""
        laps, dispatcher = self._laps, self._dispatcher
        member = next(member for member in self._crew.members if member.name == worker)
        laps.end("worker's process", member.said_hello)
        laps.add(member.load_laps)
        laps.end("other workers", dispatcher.began)
        laps.end("first pictures", dispatcher.first_start)
        laps.end("first caption")
        self.outcome.until_first_caption = {part: round(seconds, 3) for part, seconds in laps.seconds.items()}

    # ---- record and display ----

    def _look_after_record(self) -> None:
        now = time.monotonic()
        # Many workers become ready one after the other, and each note is synced to disk.
        if self._unnoted and (self._crew.assembled or now - self._noted >= _NOTE_EVERY):
            self._note_workers()
            self._noted = now
        self._pace.run(self._record.uncommitted, self._record.commit)
        if now - self._last_beat >= _BEAT_EVERY:
            self._record.beat()
            self._last_beat = now

    def _note_workers(self) -> None:
        self._run_file.note(workers={one.name: one.facts for one in self._crew.members if one.facts})
        self._unnoted = False

    def _snapshot(self) -> Snapshot:
        done, since = self.outcome, self._dispatcher.began
        return Snapshot(
            total=self._feed.read if self._feed.ended else self._count.total,
            before=self._feed.skipped,
            done=done.captioned,
            failed=done.failed,
            workers=[self._worker_snapshot(member) for member in self._crew.members if not member.went_with_node],
            flagged=done.flagged,
            seconds=time.monotonic() - since if since else 0.0,
            bytes_to_come=self.bytes_to_come(),
            errors=Counter(done.errors),
            flags=Counter(done.flags),
            rounds=self._schedule.rounds,
        )

    def _worker_snapshot(self, member: Member) -> WorkerSnapshot:
        load = member.child.load if member.child else None
        return WorkerSnapshot(
            name=member.name,
            state=member.state,
            stage=member.stats.stage if member.stats and member.state == "ready" else member.state,
            done=self._per_worker[member.name]["done"],
            failed=self._per_worker[member.name]["failed"],
            seconds=member.seconds,
            pid=member.child.pid if member.child else None,
            gpus=tuple(load.gpus) if load else tuple(filter(None, member.seat.visible.split(","))),
            load=load,
        )
