"""DryRun: who would do what, what would be skipped, and about how long it would take; nothing is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caption import estimate, summary
from caption.console import say
from caption.cost import estimator
from caption.devices import Seat
from caption.errors import InputError
from caption.feed import WINDOW, Feed
from caption.item import Item
from caption.outputfolder import compare_with_record, record_errors
from caption.redo import ids_to_redo
from caption.schedule import make_schedule, stretches, usual_slots
from caption.settings import Settings
from caption.sources import Source
from caption.sources.folder import shown
from caption.sources.picture import NAMED
from caption.twins import Twins
from caption.where import Part
from checkpoint import View


def dry_run(settings: Settings, fingerprint: dict[str, Any], source: Source, seats: Sequence[Seat], dtype: str) -> None:
    """Prints what a run would do and what not; writes nothing, loads nothing, downloads nothing.

    Args:
        fingerprint: of the job, as far as it is known without its model.

    Raises:
        InputError: the input holds no pictures.
        OtherJob, Damaged, DiskError: the output folder can't be continued.
        UsageError: ``--redo`` names nothing.
    """
    out = Path(settings.output)
    view = compare_with_record(out, fingerprint)
    with record_errors(out):
        plan = Plan(settings, source, seats, view)
    if not (plan.read or source.elsewhere):
        raise InputError(f"there are no pictures in the {source.described}", source.takes)
    say(f"Input   {source.described}: {_images(plan.read)}")
    say(f"Output  {settings.output}" + ("" if out.exists() else " (would be made)"))
    say(summary.model_line(settings, seats, settings.model, dtype))
    if settings.then_score:
        say(f"Then    scores by {settings.then_score}, when the model is unloaded")
    for warning in source.warnings:
        say(f"Note: {warning}.")
    skipped = [
        ("done before", plan.done),
        ("failing rows, which get their row in failed.jsonl", plan.faulty),
        ("equal to an earlier one, whose caption they take over (--dedupe)", plan.twins),
        ("with a file beside them (--skip-existing)", Names(source.left_out, source.left_out_first)),
        ("other files, ignored", Names(source.ignored, source.ignored_first)),
    ]
    for reason, names in skipped:
        if names.count:
            more = ", …" if names.count > len(names.first) else ""
            say(f"Skipped {names.count:,} {reason}: {', '.join(map(shown, names.first))}{more}")
    say(f"To do   {_images(plan.todo)}" + (f", {plan.again:,} of them again" if plan.again else ""))
    if plan.todo:
        counts = [end - start for start, end in stretches(plan.todo, len(seats))]
        say(summary.shares(plan.schedule, counts, with_ids=True))
        size = plan.bytes * plan.todo // plan.weighed if plan.weighed else None
        say(f"Time    {estimate.time_needed(out, plan.todo, len(seats), size)}")
        say(f"Space   {estimate.space_needed(view, plan.todo, plan.example, settings.max_new_tokens)}")
    say("Dry run: nothing was done.")


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


class Names:
    """Images that would be skipped for one reason: how many, and the names of the first few."""

    def __init__(self, count: int = 0, first: Sequence[str] = ()):
        self.count, self.first = count, list(first)

    def add(self, names: Sequence[str]) -> None:
        self.count += len(names)
        self.first += names[: NAMED - len(self.first)]


class Plan:
    """What a run would do, found by reading the whole input.

    Attributes:
        read: images of the input.
        todo: those that would be captioned; ``again``, those of them that have a row now (--redo, --retry-failed).
        done, faulty, twins: the others.
        schedule: holds the first of those to do, as many as a run would read ahead.
        bytes: of their files, in all, of the ``weighed`` images whose size is known without opening them.
        example: one of those to do, or None.
    """

    def __init__(self, settings: Settings, source: Source, seats: Sequence[Seat], view: View | None):
        out = Path(settings.output)
        redo = ids_to_redo(out, settings.retry_failed, settings.redo)
        self.done, self.faulty, self.twins = Names(), Names(), Names()
        self.todo = self.again = self.bytes = self.weighed = 0
        self.example: Item | None = None
        self.schedule = make_schedule(
            settings.schedule, [seat.name for seat in seats], settings.batch_size or usual_slots(seats[0].device)
        )
        earlier, twins = _Earlier(view, redo), Twins()
        if settings.dedupe:
            say("Looking for equal pictures (--dedupe).")
            twins.find(source, settings.limit, earlier, out)
        feed = Feed(source, settings.limit, earlier.done, estimator(settings))
        while not feed.ended:
            self._sort_out(feed.next_items(), twins)
        self.read, self.done, self.again = feed.read, earlier.names, earlier.again

    def _sort_out(self, items: list[Item], twins: Twins) -> None:
        self.faulty.add([f"{item.id} ({': '.join(item.fault)})" for item in items if item.fault])
        items = [item for item in items if not item.fault]
        self.twins.add([item.id for item in items if twins.is_twin(item)])
        items = [item for item in items if not twins.is_twin(item)]
        self.todo += len(items)
        if self.schedule.pending < WINDOW:
            self.schedule.extend(items)
            sizes = [size for size in map(_size, items) if size is not None]
            self.bytes += sum(sizes)
            self.weighed += len(sizes)
            self.example = self.example or next(iter(items), None)


class _Earlier:
    """The record of earlier runs, less the rows that would be taken out; notes what it is asked."""

    def __init__(self, view: View | None, redo: frozenset[str]):
        self._view, self._redo = view, redo
        self._uncommitted = frozenset(view.uncommitted()) if view else frozenset()
        self.names, self.again = Names(), 0

    def done(self, ids: Sequence[str]) -> np.ndarray:
        done = self._view.done(ids) if self._view else np.zeros(len(ids), bool)
        if self._uncommitted:
            done |= np.fromiter((id in self._uncommitted for id in ids), bool, len(ids))
        if self._redo:
            again = done & np.fromiter((id in self._redo for id in ids), bool, len(ids))
            self.again += int(again.sum())
            done &= ~again
        self.names.add([ids[place] for place in np.flatnonzero(done)])
        return done


def _size(item: Item) -> int | None:
    """Bytes of the picture, where they are known without reading it."""
    if isinstance(item.where, Part):
        return item.where.size
    try:
        return os.stat(item.where).st_size if isinstance(item.where, str) else None
    except (OSError, ValueError):
        return None
