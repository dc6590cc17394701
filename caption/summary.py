"""Summary: what a run says before it begins and after it has ended."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from caption import idle
from caption.console import say
from caption.devices import Seat
from caption.feed import Feed
from caption.figures import clock, images_a_second
from caption.jobstate import to_go_on
from caption.launch import Launcher
from caption.lookout import Lookout
from caption.model import EMBEDDED, SMALL_MODELS, Model, billions
from caption.outcome import Outcome
from caption.outputs.rows import CAPTIONS, FAILED
from caption.schedule import FEW, Rounds, Schedule
from caption.settings import Settings
from caption.sources import Source
from caption.sources.folder import shown
from caption.stop import StopSignals
from checkpoint import Record

_SLOW_ON_CPU = 1.0  # billions of parameters
_MANY = 16  # workers whose names still fit in a line
_FIRST = 3  # images of each worker that are named before the start


def warn_of_slowness(settings: Settings, seats: Sequence[Seat]) -> None:
    """The first line, if a model that wants a GPU would run without one."""
    size = billions(settings.model)
    if seats[0].device == "cpu" and size >= _SLOW_ON_CPU:
        say(
            f"No GPU in use: {settings.model} ({size:g} billion parameters) takes minutes an image on a CPU. "
            f"To try the program, use {SMALL_MODELS}."
        )


def greet(
    settings: Settings, source: Source, launcher: Launcher, model: Model, dtype: str, record: Record
) -> None:  # fmt: skip
    """What is about to be done, and by whom."""
    before, adopted = sum(record.counts.values()), sum(record.adopted.values())
    say(f"Input   {source.described}")
    say(f"Output  {settings.output}" + (f", {before:,} images done before" if before else ""))
    if adopted:
        say(f"        {adopted:,} of them written after the last checkpoint of a run that was killed")
    if launcher.described:
        say(launcher.described)
    say(model_line(settings, launcher.seats, model.name, dtype))


def model_line(settings: Settings, seats: Sequence[Seat], model: str, dtype: str) -> str:
    """Which model runs where and how."""
    loaders = f"{seats[0].loaders} loader" + ("s" if seats[0].loaders > 1 else "")
    adapter = f" with the LoRA adapter {settings.lora}" if settings.lora else ""
    adapter += f" at {settings.lora_scale:g}" if settings.lora and settings.lora_scale != 1 else ""
    names = ", ".join(seat.name for seat in seats[:_MANY]) + ", …" * (len(seats) > _MANY)
    return (
        f"Model   {model}{adapter}, {dtype} on {names}, "
        f"{_side_by_side(settings, seats)} images side by side, {loaders} each, {settings.schedule} schedule"
    )


def _side_by_side(settings: Settings, seats: Sequence[Seat]) -> str:
    if not settings.batch_size and seats[0].device == "cuda":
        return "as many as memory bears"
    return str(settings.batch_size or FEW)


def shares(schedule: Schedule, counts: Iterable[int], with_ids: bool = False) -> str:
    """A line a worker: how many images it has to begin with, and the positions of those that it takes first."""
    lines = []
    for name, count in zip(schedule.sizes(), counts):
        items = schedule.first(name, _FIRST)
        first = [f"{item.index} {shown(item.id)}" if with_ids else str(item.index) for item in items]
        images = f"{name:<7} {count:,} image{'' if count == 1 else 's'}"
        costliest = " (the costliest)" if schedule.costly_first(name) else ""
        lines.append(f"{images}, first {', '.join(first)}{costliest}" if first else images)
    return "\n".join(_not_too_many(lines))


def _not_too_many(lines: Sequence[str]) -> list[str]:
    """A line a worker: of those of a large cluster only the first."""
    return [*lines[:_MANY], f"and {len(lines) - _MANY} more"] if len(lines) > _MANY else list(lines)


def announce(lookout: Lookout, schedule: Schedule, feed: Feed) -> None:
    """Who will do what, as far as the input has been read."""
    if schedule.pending:
        if not feed.ended:
            lookout.announce(f"Shares  of the first {feed.read:,} images; the others are dealt as they are read")
        lookout.announce(shares(schedule, schedule.sizes().values()))


def conclude(
    settings: Settings, source: Source, outcome: Outcome, record: Record, stop: StopSignals, loaders: int
) -> None:
    """How it ended, where the files are, and how to go on. loaders: of each worker."""
    for warning in source.warnings:
        say(f"Note: {warning}.")
    if source.ignored:
        say(f"Ignored {source.ignored:,} other file{'s' if source.ignored > 1 else ''}.")
    if source.left_out:
        say(f"Left out {source.left_out:,} images that have a file beside them (--skip-existing).")
    if outcome.adapter_loads:
        times = "once" if outcome.adapter_loads == 1 else f"{outcome.adapter_loads:,} times"
        say(f"Adapters: loaded {times}, in {outcome.adapter_seconds:.1f} s.")
    if outcome.flags:
        say(f"Flags: {_counted(outcome.flags)}.")
    if outcome.rounds and outcome.rounds.over:
        say(_rounds(outcome.rounds))
    sentences = idle.sentences(outcome.idle, outcome.total_seconds, loaders) if outcome.captioned else ()
    for sentence in _not_too_many(list(sentences)):
        say(sentence)
    out = Path(settings.output)
    say(f"Captions: {out / CAPTIONS}" + (f", failures: {out / FAILED}" if record.counts[FAILED] else ""))
    rate = outcome.captioned / outcome.seconds if outcome.seconds else 0.0
    pace = f" in {clock(outcome.seconds)} ({images_a_second(rate)})" if outcome.captioned else ""
    errors = f" ({_counted(outcome.errors)})" if outcome.errors else ""
    figures = f"{outcome.captioned:,} captioned{pace}, {outcome.failed:,} failed{errors}"
    figures += f", {outcome.skipped:,} done before"
    if stop.signal and not outcome.complete:
        argv = to_go_on(sys.argv[1:])
        same = "the same command again" if argv == sys.argv[1:] else "this"
        command = shlex.join(["python", "-m", "caption.run", *argv])
        say(f"Stopped by {stop.signal.name}: {figures}. To go on, type {same}: {command}")
    else:
        say(f"Finished: {figures}.{_EMBEDDED if settings.model in EMBEDDED else ''}")


def _rounds(rounds: Rounds) -> str:
    return (
        f"Lockstep: {rounds.over:,} rounds; at their end the first worker was ahead of the last by {rounds.mean:.2f} s "
        f"on average, {rounds.most:.2f} s at most (round {rounds.worst:,})."
    )


_EMBEDDED = " Model shapes is the tiny embedded one, for trying and tests: choose a real one with --model."


def _counted(counter: Counter) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counter.most_common())
