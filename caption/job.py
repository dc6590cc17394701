"""Job: from settings to a run: its model, its seats, its folder, its record."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import checkpoint
from caption import summary
from caption.adapter import identity, locate, run_adapters
from caption.console import say
from caption.dryrun import dry_run
from caption.errors import UsageError
from caption.followers import Followers
from caption.laps import Laps
from caption.launch import open_launcher
from caption.log import NAME as LOG_FILE
from caption.log import log_into, note
from caption.metrics import Metrics
from caption.model import find_model
from caption.outcome import Outcome
from caption.outputfolder import PLACES, make_folder, open_record, record_errors, shown_path, with_old_places
from caption.outputs.rows import CAPTIONS, FAILED
from caption.redo import is_under_way, withdraw_rows
from caption.runfile import RunFile
from caption.settings import Settings, caption_settings
from caption.setup import chosen_dtype
from caption.shard import common_folder, own_folder, parse_shard
from caption.sources import STDIN, Source, open_source
from caption.sources.picture import Unread
from caption.stage import Stage
from caption.stop import StopSignals
from caption.urls import scheme

_ROW_FORMAT = 1


def run_job(settings: Settings, laps: Laps | None = None) -> int:
    """Does the job, or as much of it as a stop lets; prints what it does and how it ended.

    Args:
        laps: of the command so far.

    Returns:
        The exit code.

    Raises:
        CaptionError: the run can't begin or can't go on.
    """
    laps = laps or Laps()
    if settings.shard:
        settings = dataclasses.replace(settings, output=own_folder(settings.output, parse_shard(settings.shard)))
    with StopSignals() as stop, contextlib.ExitStack() as launched:
        launcher = launched.enter_context(open_launcher(settings))
        seats = launcher.seats
        summary.warn_of_slowness(settings, seats)
        out = Path(settings.output)
        source = _open_source(settings)
        adapters = run_adapters(settings.lora, settings.lora_scale, _table_folder(settings))
        dtype = chosen_dtype(settings, seats)
        if settings.dry_run:
            dry_run(settings, make_fingerprint(settings, dtype), source, seats, dtype)
            return 0
        then = None
        if settings.then_score:
            from caption.score.then import ThenScore

            then = ThenScore(settings, seats)
        make_folder(out)
        with contextlib.ExitStack() as open_:
            metrics = Metrics(settings.metrics_port) if settings.metrics_port else None
            if metrics:
                open_.callback(metrics.close)
            model = find_model(
                settings.model, settings.revision, settings.trust_remote_code, settings.allow_pickled_weights
            )
            laps.end("finding the model")
            fingerprint = make_fingerprint(settings, dtype) | {"model": model.identity}
            with record_errors(out), open_record(out, fingerprint) as record:
                open_.enter_context(log_into(Path(settings.log_file or out / LOG_FILE), settings.log_format))
                redo = None if is_under_way(out, settings.redo) else settings.redo
                withdrawn = withdraw_rows(record, out, settings.retry_failed, redo, say)
                if withdrawn:
                    say(f"{withdrawn:,} rows are taken out, their images are done again.")
                summary.greet(settings, source, launcher, model, dtype, record)
                run_file = RunFile(out, fingerprint, dataclasses.asdict(settings))
                note(f"run {run_file.number} into this folder, process {os.getpid()}")
                for change in run_file.changed_versions():
                    say(f"Note: another version than in the run before: {change}.")
                run_file.note(seats=[dataclasses.asdict(seat) for seat in seats], model=dataclasses.asdict(model))
                stop.before_exit = lambda code: run_file.end(exit_code=code)
                with run_file.noting_errors(), contextlib.closing(Followers(settings)) as followers:
                    stage = Stage(
                        settings, source, lambda: _open_source(settings), launcher, model, dtype, record, run_file,
                        stop, laps, metrics, adapters, when_done=then.note_memory if then else None,
                    )  # fmt: skip
                    outcome = stage.run()
                code = _exit_code(settings, source, record, outcome, stop) or followers.exit_code
                run_file.end(totals=outcome.totals(), rows=record.counts, exit_code=code)
            summary.conclude(settings, source, outcome, record, stop, seats[0].loaders)
        launched.close()  # what the workers had is free for the next stage
        if then and outcome.complete and record.counts[CAPTIONS]:
            if stop.signal:  # it came with the last captions
                say(f"Stopped by {stop.signal.name} before the scores. To go on, type the same command again.")
                code = 128 + stop.signal
            else:
                code = then.run(stop) or code
    return code


def make_fingerprint(settings: Settings, dtype: str) -> dict[str, Any]:
    """What can't change between two runs into one folder, less the model, whose identity is found out later.

    That identity stands for its revision too. A shard changes no caption, but its folder is that of no other.
    """
    fields = caption_settings(settings)
    del fields["revision"], fields["model"]
    paths = {name: fields[name] and shown_path(fields[name]) for name in PLACES}
    if settings.input == STDIN:
        paths["input"] = STDIN
    lora = fields["lora"] and identity(locate(fields["lora"]))
    fingerprint = fields | paths | {"lora": lora, "dtype": dtype, "row_format": _ROW_FORMAT}
    fingerprint |= {"shard": settings.shard} if settings.shard else {}
    return with_old_places(Path(settings.output), fingerprint) if settings.moved else fingerprint


def _table_folder(settings: Settings) -> str:
    """Where the relative paths of adapters in a table begin."""
    if settings.input == STDIN or scheme(settings.input):
        return ""
    path = Path(settings.input)
    return os.fspath(path if path.is_dir() else path.parent)


def _open_source(settings: Settings) -> Source:
    path, out = Path(settings.input), Path(settings.output)
    place = settings.input if scheme(settings.input) else path
    source = open_source(place, settings.seed, out, dataclasses.asdict(settings))
    for folder in [out, *([common_folder(out)] if settings.shard else [])]:
        with contextlib.suppress(OSError):  # an output that is not there yet is another folder
            if path.samefile(folder):
                raise UsageError(f"INPUT and --output are the same folder {path}", "choose another --output")
    return source


def _exit_code(
    settings: Settings, source: Source, record: checkpoint.Record, outcome: Outcome, stop: StopSignals
) -> int:
    if stop.signal and not outcome.complete:
        return 128 + stop.signal
    rows = record.counts
    if settings.strict and any(isinstance(warning, Unread) for warning in source.warnings):
        return 3
    return 3 if rows[FAILED] and (settings.strict or not rows[CAPTIONS]) else 0
