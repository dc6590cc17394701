"""Job: from settings to a run: its model, its seats, its folder, its record, its last words."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import checkpoint
from caption.coordinator import Coordinator, Outcome
from caption.crew import Crew
from caption.devices import Seat, choose_seats
from caption.engine import EngineOptions
from caption.errors import Busy, Damaged, DiskError, OtherJob, OutputError, UsageError
from caption.feed import Count, Feed
from caption.image import DecodeOptions
from caption.messages import Setup
from caption.model import EMBEDDED, SMALL_MODELS, Model, billions, find_model
from caption.monitor import Monitor
from caption.outputs.rows import CAPTIONS, FAILED
from caption.progress import Progress, clock, images_a_second
from caption.runfile import RunFile
from caption.schedule import make_schedule
from caption.settings import OPTIONS, Settings, caption_settings
from caption.sources import Source, open_source
from caption.statsfile import StatsFile
from caption.stop import StopSignals

_FORMAT = 1  # of rows and fingerprint
_SLOW_ON_CPU = 1.0  # billions of parameters


def run_job(settings: Settings) -> int:
    """Does the job, or as much of it as a stop lets; prints what it does and how it ended.

    Returns:
        The exit code.

    Raises:
        CaptionError: the run can't begin or can't go on.
    """
    with StopSignals() as stop:
        seats = choose_seats(settings)
        _warn_of_slowness(settings, seats)
        out = Path(settings.output)
        source = open_source(Path(settings.input), settings.seed, out)
        model = find_model(
            settings.model, settings.revision, settings.trust_remote_code, settings.allow_pickled_weights
        )
        dtype = settings.dtype if settings.dtype != "auto" else ("fp32" if seats[0].device == "cpu" else "fp16")
        fingerprint = _fingerprint(settings, model, dtype)
        if settings.dry_run:
            return _dry_run(settings, source, seats, out)
        _make_folder(out)
        with _disk_errors(out), _open_record(out, fingerprint) as record:
            _greet(settings, source, seats, model, dtype, record)
            run_file = RunFile(out, fingerprint, dataclasses.asdict(settings))
            for change in run_file.changed_versions():
                print(f"Note: other versions than in the run before: {change}.", flush=True)
            run_file.note(seats=[dataclasses.asdict(seat) for seat in seats], model=dataclasses.asdict(model))
            outcome = _work(settings, source, seats, model, dtype, record, run_file, stop)
            code = _exit_code(settings, record, stop)
            run_file.end(totals=_totals(outcome), rows=record.counts, exit_code=code)
    _last_words(settings, source, outcome, record, stop)
    return code


def _work(
    settings: Settings, source: Source, seats: list[Seat], model: Model, dtype: str, record: checkpoint.Record,
    run_file: RunFile, stop: StopSignals,
) -> Outcome:  # fmt: skip
    options = EngineOptions(
        model=model.folder, dtype=dtype, device=seats[0].device, batch_size=settings.batch_size,
        prompt=settings.prompt, max_new_tokens=settings.max_new_tokens, num_beams=settings.num_beams,
        temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k,
        repetition_penalty=settings.repetition_penalty, max_pixels=settings.max_pixels,
        trust_remote_code=settings.trust_remote_code, allow_pickled_weights=settings.allow_pickled_weights,
        threads=seats[0].threads,
    )  # fmt: skip
    decode = DecodeOptions(settings.max_pixels, settings.max_pixels_decoded)

    def setup(seat: Seat) -> Setup:
        return Setup(seat.name, options, seat.loaders, decode, settings.decode_timeout)

    names = [seat.name for seat in seats]
    progress = Progress(names)
    stats = StatsFile(Path(settings.output), Monitor(seats))
    try:
        with Crew(seats, setup) as crew:
            coordinator = Coordinator(
                settings, source.described, Feed(source, settings.limit, record.done),
                Count(open_source(Path(settings.input), settings.seed, Path(settings.output)), settings.limit),
                make_schedule(settings.schedule, names, settings.batch_size), record, crew, progress, stats, run_file,
                stop,
            )  # fmt: skip
            return coordinator.run()
    finally:
        progress.close()
        stats.close()


def _fingerprint(settings: Settings, model: Model, dtype: str) -> dict[str, Any]:
    """What can't change between two runs into one folder; the model's identity stands for its revision too."""
    fields = caption_settings(settings)
    del fields["revision"]
    fields |= {
        "input": os.fspath(Path(settings.input).resolve()).encode(errors="replace").decode(),
        "model": f"{Path(model.name).name if Path(model.name).is_dir() else model.name} ({model.identity})",
        "dtype": dtype,
        "format": _FORMAT,
    }
    return fields


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"can't write into the folder {out}: {error.strerror}", "choose another --output") from error


def _open_record(out: Path, fingerprint: dict[str, Any]) -> checkpoint.Record:
    try:
        return checkpoint.open(out, fingerprint, (CAPTIONS, FAILED))
    except checkpoint.Busy as error:
        raise Busy(
            f"another run is writing {out} ({error.holder})", "wait for it, or choose another --output"
        ) from error
    except checkpoint.Mismatch as error:
        raise OtherJob(
            f"{out} belongs to a job with another {error.field.replace('_', ' ')}: it was {error.old!r} and is now "
            f"{error.new!r}",
            f"{_way_back(error)}, or choose another --output for a new job",
        ) from error
    except checkpoint.Damaged as error:
        raise Damaged(str(error), f"see what is wrong with python -m caption.verify {out}") from error


def _way_back(error: checkpoint.Mismatch) -> str:
    if error.field == "model" and "commit " in str(error.old):
        return f"to go on with it add --revision {str(error.old).rpartition('commit ')[2].rstrip(')')}"
    if error.field in OPTIONS and error.field not in ("input", "model"):
        return f"to go on with it set {OPTIONS[error.field].flag} to the old value"
    return f"to go on with it give the same {error.field} as before"


class _disk_errors:
    """Inside, trouble with the disk under the record becomes one sentence."""

    def __init__(self, out: Path):
        self._out = out

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        saved = "what was written before is safe"
        if isinstance(error, checkpoint.Broken):
            error = error.cause
        if isinstance(error, checkpoint.Full):
            raise DiskError(
                f"the disk of {self._out} is full, {error.needed:,} bytes more are needed",
                f"free some space and type the same command again; {saved}",
            ) from error
        if isinstance(error, (OSError, checkpoint.Error)):
            raise DiskError(
                f"can't go on writing {self._out}: {getattr(error, 'strerror', None) or error}",
                f"mend this and type the same command again; {saved}",
            ) from error


def _exit_code(settings: Settings, record: checkpoint.Record, stop: StopSignals) -> int:
    if stop.signal:
        return 128 + stop.signal
    rows = record.counts
    return 3 if rows[FAILED] and (settings.strict or not rows[CAPTIONS]) else 0


def _totals(outcome: Outcome) -> dict[str, Any]:
    return {**dataclasses.asdict(outcome), "seconds": round(outcome.seconds, 3)}


# ---- what the user reads ----


def _warn_of_slowness(settings: Settings, seats: list[Seat]) -> None:
    size = billions(settings.model)
    if seats[0].device == "cpu" and size >= _SLOW_ON_CPU:
        print(
            f"No GPU found: {settings.model} ({size:g} billion parameters) takes minutes an image on a CPU. To try "
            f"the program, use {SMALL_MODELS}.",
            flush=True,
        )


def _greet(settings, source: Source, seats: list[Seat], model: Model, dtype: str, record: checkpoint.Record) -> None:
    rows = sum(record.counts.values())
    adopted = sum(record.adopted.values())
    where = ", ".join(seat.name for seat in seats)
    plural = "s" if seats[0].loaders > 1 else ""
    print(f"Input   {source.described}")
    print(f"Output  {settings.output}" + (f", {rows:,} images done before" if rows else ""))
    if adopted:
        print(f"        {adopted:,} of them were whole rows after the last checkpoint of a run that was killed")
    print(
        f"Model   {model.name}, {dtype} on {where}, {settings.batch_size} images side by side, "
        f"{seats[0].loaders} loader{plural} each, {settings.schedule} schedule",
        flush=True,
    )


def _last_words(
    settings: Settings, source: Source, outcome: Outcome, record: checkpoint.Record, stop: StopSignals
) -> None:
    out = Path(settings.output)
    for warning in source.warnings:
        print(f"Note: {warning}.")
    if source.ignored:
        print(f"Ignored {source.ignored:,} other files.")
    if outcome.flags:
        print("Flags: " + _counted(outcome.flags) + ".")
    print(f"Captions: {out / CAPTIONS}" + (f", failures: {out / FAILED}" if record.counts[FAILED] else ""))
    rate = outcome.captioned / outcome.seconds if outcome.seconds else 0.0
    failed = f"{outcome.failed:,} failed" + (f" ({_counted(outcome.errors)})" if outcome.errors else "")
    pace = f" in {clock(outcome.seconds)} ({images_a_second(rate)})" if outcome.captioned else ""
    figures = f"{outcome.captioned:,} captioned, {failed}, {outcome.skipped:,} done before{pace}"
    if stop.signal:
        command = shlex.join(["python", "-m", "caption.run", *sys.argv[1:]])
        print(f"Stopped by {stop.signal.name}: {figures}. To go on, type it again: {command}", flush=True)
        return
    trial = "" if settings.model not in EMBEDDED else (
        " Model shapes is the tiny embedded one, for trying and tests: choose a real one with --model."
    )  # fmt: skip
    print(f"Finished: {figures}.{trial}", flush=True)


def _counted(counter) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counter.most_common())


def _dry_run(settings: Settings, source: Source, seats: list[Seat], out: Path) -> int:
    """Shows the assignment of the first window of images to the seats; writes nothing."""
    done = _done_in(out)
    feed, schedule = Feed(source, settings.limit, done), make_schedule(
        settings.schedule, [seat.name for seat in seats], settings.batch_size
    )  # fmt: skip
    while feed.fill(schedule):
        pass
    print(
        f"Input   {source.described}: {feed.read:,} images read, {feed.skipped:,} of them done, {source.ignored:,} other files"
    )
    for name, size in schedule.sizes().items():
        first = ", ".join(item.id for item in schedule.first(name, 3))
        print(f"{name:<7} {size:,} images" + (f": {first}, …" if size > 3 else f": {first}"))
    if not feed.read:
        raise UsageError(f"there are no pictures in the {source.described}", "check the path")
    print("Dry run: nothing was done.")
    return 0


def _done_in(out: Path):
    try:
        return checkpoint.read(out).done
    except FileNotFoundError:
        return lambda ids: [False] * len(ids)
