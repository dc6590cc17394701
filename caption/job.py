"""Job: from settings to a run: its model, its seats, its folder, its record."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import checkpoint
from caption import summary
from caption.adapter import AdapterCheck, Adapters, identity, locate, run_adapters
from caption.console import say
from caption.coordinator import Coordinator
from caption.crew import Crew
from caption.devices import Seat, choose_seats
from caption.dryrun import dry_run
from caption.engine import EngineOptions
from caption.errors import UsageError
from caption.feed import Count, Feed
from caption.followers import Followers
from caption.guard import GuardOptions
from caption.image import DecodeOptions
from caption.messages import Setup
from caption.model import Model, find_model
from caption.monitor import Monitor
from caption.outcome import Outcome
from caption.outputfolder import make_folder, open_record, record_errors, shown_path
from caption.outputs.rows import CAPTIONS, FAILED
from caption.precision import Precision
from caption.progress import Progress
from caption.redo import withdraw_rows
from caption.runfile import RunFile
from caption.schedule import FEW, make_schedule
from caption.settings import OPTIONS, Settings, caption_settings
from caption.sources import STDIN, Source, open_source
from caption.statsfile import StatsFile
from caption.stop import StopSignals
from caption.twins import Twins

_ROW_FORMAT = 1


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
        adapters = run_adapters(settings.lora, settings.lora_scale, _table_folder(settings))
        dtype = settings.dtype
        if dtype == "auto":
            dtype = "fp32" if seats[0].device == "cpu" else "fp16"
        if settings.dry_run:
            dry_run(settings, make_fingerprint(settings, dtype), source, seats)
            return 0
        make_folder(out)
        model = find_model(
            settings.model, settings.revision, settings.trust_remote_code, settings.allow_pickled_weights
        )
        fingerprint = make_fingerprint(settings, dtype) | {"model": model.identity}
        with record_errors(out), open_record(out, fingerprint) as record:
            withdrawn = withdraw_rows(record, out, settings.retry_failed, settings.redo, say)
            if withdrawn:
                say(f"{withdrawn:,} rows are taken out, their images are done again.")
            summary.greet(settings, source, seats, model, dtype, record)
            run_file = RunFile(out, fingerprint, dataclasses.asdict(settings))
            for change in run_file.changed_versions():
                say(f"Note: another version than in the run before: {change}.")
            run_file.note(seats=[dataclasses.asdict(seat) for seat in seats], model=dataclasses.asdict(model))
            with contextlib.closing(Followers(settings)) as followers:
                outcome = _work(settings, source, seats, model, adapters, dtype, record, run_file, stop)
            code = _exit_code(settings, record, outcome, stop) or followers.exit_code
            run_file.end(totals=outcome.totals(), rows=record.counts, exit_code=code)
        summary.conclude(settings, source, outcome, record, stop, seats[0].loaders)
    return code


def make_fingerprint(settings: Settings, dtype: str) -> dict[str, Any]:
    """What can't change between two runs into one folder, less the model, whose identity is found out later.

    That identity stands for its revision too.
    """
    fields = caption_settings(settings)
    del fields["revision"], fields["model"]
    paths = {name: fields[name] and shown_path(fields[name]) for name in ("input", "image_root", "details")}
    if settings.input == STDIN:
        paths["input"] = STDIN
    lora = fields["lora"] and identity(locate(fields["lora"]))
    return fields | paths | {"lora": lora, "dtype": dtype, "row_format": _ROW_FORMAT}


def _table_folder(settings: Settings) -> str:
    """Where the relative paths of adapters in a table begin."""
    path = Path(settings.input)
    return "" if settings.input == STDIN else os.fspath(path if path.is_dir() else path.parent)


def _open_source(settings: Settings) -> Source:
    path, out = Path(settings.input), Path(settings.output)
    source = open_source(path, settings.seed, out, dataclasses.asdict(settings))
    with contextlib.suppress(OSError):  # an output that is not there yet is another folder
        if path.samefile(out):
            raise UsageError(f"INPUT and --output are the same folder {path}", "choose another --output")
    return source


def _work(
    settings: Settings,
    source: Source,
    seats: list[Seat],
    model: Model,
    adapters: Adapters,
    dtype: str,
    record: checkpoint.Record,
    run_file: RunFile,
    stop: StopSignals,
) -> Outcome:
    shared = {field.name for field in dataclasses.fields(EngineOptions)} & OPTIONS.keys()
    options = EngineOptions(
        **{name: getattr(settings, name) for name in shared}
        | {"model": model.folder, "model_identity": model.identity, "dtype": dtype}
        | {"adapter": adapters.run, "device": seats[0].device, "threads": seats[0].threads}
    )
    decode = DecodeOptions(settings.max_pixels, settings.max_pixels_decoded)
    guard = GuardOptions(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(GuardOptions)})
    precision = Precision(dtype, run_file)
    if precision.switched:
        say(f"        in {precision.dtype}, as {dtype} was too narrow in an earlier run")

    def setup(seat: Seat) -> Setup:
        numbers = dataclasses.replace(options, dtype=precision.dtype)
        timeout, flags = settings.decode_timeout, precision.flags
        return Setup(seat.name, numbers, seat.loaders, decode, timeout, guard, flags, adapters)

    names = [seat.name for seat in seats]
    out = Path(settings.output)
    with contextlib.ExitStack() as open_:
        progress = open_.enter_context(contextlib.closing(Progress(names)))
        stats = open_.enter_context(contextlib.closing(StatsFile(out, Monitor(seats))))
        crew = open_.enter_context(
            Crew(seats, setup)
        )
        twins = Twins()
        if settings.dedupe:
            say("Looking for equal pictures (--dedupe).")
            found = twins.find(_open_source(settings), settings.limit, record, out)
            say(f"        {found:,} images are equal to an earlier one")
        coordinator = Coordinator(
            settings=settings,
            source=source,
            feed=Feed(source, settings.limit, record.done),
            count=Count(_open_source(settings), settings.limit),
            schedule=make_schedule(settings.schedule, names, settings.batch_size or FEW),
            record=record,
            crew=crew,
            progress=progress,
            stats=stats,
            run_file=run_file,
            precision=precision,
            stop=stop,
            twins=twins,
            adapters=AdapterCheck(adapters),
        )
        with record_errors(out, coordinator.bytes_to_come), stop.looked_after():
            return coordinator.run()


def _exit_code(settings: Settings, record: checkpoint.Record, outcome: Outcome, stop: StopSignals) -> int:
    if stop.signal and not outcome.complete:
        return 128 + stop.signal
    rows = record.counts
    return 3 if rows[FAILED] and (settings.strict or not rows[CAPTIONS]) else 0
