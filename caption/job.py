"""Job: from settings to a run: its model, its seats, its folder, its record."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoint
from caption import summary
from caption.coordinator import Coordinator, Outcome
from caption.crew import Crew
from caption.devices import Seat, choose_seats
from caption.dryrun import dry_run
from caption.engine import EngineOptions
from caption.errors import Busy, Damaged, DiskError, OtherJob, OutputError, UsageError
from caption.feed import Count, Feed
from caption.image import DecodeOptions
from caption.messages import Setup
from caption.model import Model, find_model
from caption.monitor import Monitor
from caption.outputs.rows import CAPTIONS, FAILED
from caption.progress import Progress
from caption.redo import withdraw_rows
from caption.runfile import RunFile
from caption.schedule import make_schedule
from caption.settings import OPTIONS, Settings, caption_settings
from caption.sources import Source, open_source
from caption.statsfile import StatsFile
from caption.stop import StopSignals

_FORMAT = 1  # of rows and fingerprint


def run_job(settings: Settings) -> int:
    """Does the job, or as much of it as a stop lets; prints what it does and how it ended.

    Returns:
        The exit code.

    Raises:
        CaptionError: the run can't begin or can't go on.
    """
    with StopSignals() as stop:
        seats = choose_seats(settings)
        summary.warn_of_slowness(settings, seats)
        out = Path(settings.output)
        source = _open_source(settings)
        if settings.dry_run:
            dry_run(settings, source, seats)
            return 0
        _make_folder(out)
        model = find_model(
            settings.model, settings.revision, settings.trust_remote_code, settings.allow_pickled_weights
        )
        dtype = settings.dtype
        if dtype == "auto":
            dtype = "fp32" if seats[0].device == "cpu" else "fp16"
        fingerprint = make_fingerprint(settings, model, dtype)
        with _disk_errors(out), _open_record(out, fingerprint) as record:
            again = withdraw_rows(record, out, settings.retry_failed, settings.redo)
            if again:
                print(f"{again:,} rows are taken out, their images are done again.", flush=True)
            summary.greet(settings, source, seats, model, dtype, record)
            run_file = RunFile(out, fingerprint, dataclasses.asdict(settings))
            for change in run_file.changed_versions():
                print(f"Note: another version than in the run before: {change}.", flush=True)
            run_file.note(seats=[dataclasses.asdict(seat) for seat in seats], model=dataclasses.asdict(model))
            outcome = _work(settings, source, seats, model, dtype, record, run_file, stop)
            code = _exit_code(settings, record, stop)
            run_file.end(totals=outcome.totals(), rows=record.counts, exit_code=code)
        summary.conclude(settings, source, outcome, record, stop)
    return code


def make_fingerprint(settings: Settings, model: Model, dtype: str) -> dict[str, Any]:
    """What can't change between two runs into one folder. The model's identity stands for its revision too."""
    fields = caption_settings(settings)
    del fields["revision"]
    name = Path(model.name).name if Path(model.name).is_dir() else model.name
    return fields | {
        "input": os.fspath(Path(settings.input).resolve()).encode(errors="replace").decode(),
        "model": f"{name} ({model.identity})",
        "dtype": dtype,
        "format": _FORMAT,
    }


def _open_source(settings: Settings) -> Source:
    path, out = Path(settings.input), Path(settings.output)
    source = open_source(path, settings.seed, out)
    with contextlib.suppress(OSError):  # an output that is not there yet is another folder
        if path.samefile(out):
            raise UsageError(f"INPUT and --output are the same folder {path}", "choose another --output")
    return source


def _work(
    settings: Settings,
    source: Source,
    seats: list[Seat],
    model: Model,
    dtype: str,
    record: checkpoint.Record,
    run_file: RunFile,
    stop: StopSignals,
) -> Outcome:
    shared = {field.name for field in dataclasses.fields(EngineOptions)} & OPTIONS.keys()
    options = EngineOptions(
        **{name: getattr(settings, name) for name in shared}
        | {"model": model.folder, "dtype": dtype, "device": seats[0].device, "threads": seats[0].threads}
    )
    decode = DecodeOptions(settings.max_pixels, settings.max_pixels_decoded)
    names = [seat.name for seat in seats]
    with contextlib.ExitStack() as open_:
        progress = open_.enter_context(contextlib.closing(Progress(names)))
        stats = open_.enter_context(contextlib.closing(StatsFile(Path(settings.output), Monitor(seats))))
        crew = open_.enter_context(
            Crew(seats, lambda seat: Setup(seat.name, options, seat.loaders, decode, settings.decode_timeout))
        )
        coordinator = Coordinator(
            settings=settings,
            source=source.described,
            feed=Feed(source, settings.limit, record.done),
            count=Count(_open_source(settings), settings.limit),
            schedule=make_schedule(settings.schedule, names, settings.batch_size),
            record=record,
            crew=crew,
            progress=progress,
            stats=stats,
            run_file=run_file,
            stop=stop,
        )
        with _disk_errors(Path(settings.output), coordinator.bytes_to_come):
            return coordinator.run()


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
        holder = error.holder or "another run"
        raise Busy(f"{out} is being written by {holder}", "wait for it, or choose another --output") from error
    except checkpoint.Mismatch as error:
        raise OtherJob(
            f"{out} belongs to another job, its {error.field.replace('_', ' ')} was {error.old!r} and is now "
            f"{error.new!r}",
            f"{_way_back(error)}, or choose another --output for a new job",
        ) from error
    except checkpoint.Damaged as error:
        raise Damaged(str(error), f"python -m caption.verify {out} tells more") from error


def _way_back(error: checkpoint.Mismatch) -> str:
    if error.field == "model" and "commit " in str(error.old):
        return f"to go on with it add --revision {str(error.old).rpartition('commit ')[2].rstrip(')')}"
    if error.field in OPTIONS and error.field not in ("input", "model"):
        return f"to go on with it set {OPTIONS[error.field].flag} to the old value"
    return f"to go on with it give the same {error.field} as before"


@contextlib.contextmanager
def _disk_errors(out: Path, to_come: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Trouble with the disk under the record becomes one sentence; ``to_come``: bytes that the rest would take."""
    try:
        yield
    except (OSError, checkpoint.Error) as error:
        cause = error.cause if isinstance(error, checkpoint.Broken) else error
        remedy = "type the same command again; what was written is safe"
        if isinstance(cause, checkpoint.Full) or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            missing = max(to_come(), getattr(cause, "needed", 1))
            raise DiskError(
                f"the disk of {out} is full, about {missing:,} bytes are missing for the rest",
                f"free them and {remedy}",
            ) from error
        problem = getattr(cause, "strerror", None) or cause
        raise DiskError(f"can't go on writing {out}: {problem}", f"mend this and {remedy}") from error


def _exit_code(settings: Settings, record: checkpoint.Record, stop: StopSignals) -> int:
    if stop.signal:
        return 128 + stop.signal
    rows = record.counts
    return 3 if rows[FAILED] and (settings.strict or not rows[CAPTIONS]) else 0
