"""Job: the second stage, from settings to scores: its scorer, its seats, its record beside the captions'."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import checkpoint
from caption import idle, summary
from caption.console import say
from caption.devices import Seat
from caption.engine import JUDGE, REFERENCE
from caption.errors import OtherJob
from caption.figures import clock, images_a_second
from caption.laps import Laps
from caption.launch import open_launcher
from caption.log import NAME as LOG_FILE
from caption.log import log_into, note
from caption.metrics import Metrics
from caption.model import EMBEDDED, Model
from caption.outcome import Outcome
from caption.outputfolder import compare_with_record, make_folder, open_record, record_errors
from caption.outputs.rows import RowFiles
from caption.runfile import RunFile
from caption.score.averages import Averages, averages
from caption.score.current import withdraw_stale
from caption.score.references import References
from caption.score.rows import FAILED_SCORES, FOLDER, SCORES, score_files
from caption.score.source import ScoreSource
from caption.scorer import Scorer
from caption.settings import OPTIONS, Settings
from caption.setup import chosen_dtype
from caption.stage import Stage
from caption.stop import StopSignals

_ROW_FORMAT = 1
_NOT_KEPT = ("format", "redo", "dry_run")  # options of groups machine and run that are for captions alone
_KEPT = ("image_root", "revision", "trust_remote_code", "allow_pickled_weights", "dtype", "max_new_tokens",
         "max_pixels", "max_pixels_decoded", "limit", "reference", "rubric", "group_by")  # fmt: skip
# What the second stage takes over from the settings of a command; all else is as by default.
SCORE_OPTIONS = _KEPT + tuple(
    name for name, option in OPTIONS.items() if option.group in ("machine", "run") and name not in _NOT_KEPT
)


def score_captions(
    settings: Settings,
    out: Path,
    scorer: Scorer,
    model: Model,
    stop: StopSignals,
    again: str,
    memory: Mapping[str, Mapping[str, int]] | None = None,
    anew: bool = False,
) -> int:
    """Scores the captions of an output folder that have no score, or as many as a stop lets; says how it ended.

    Args:
        settings: of those that SCORE_OPTIONS name.
        out: the folder; finished, or still growing.
        model: the scorer's.
        again: the command that goes on, for a run that is stopped.
        memory: bytes of each GPU before and after the captioner was unloaded, where that was measured.
        anew: take out all scores first, of whatever scorer.

    Returns:
        The exit code.

    Raises:
        CaptionError: the stage can't begin or can't go on.
    """
    settings = _of_stage(settings, out, scorer, model)
    laps = Laps()
    references = References(scorer.reference) if scorer.kind == REFERENCE else None

    def open_source() -> ScoreSource:
        return ScoreSource(out, scorer, references, settings.image_root)

    source = open_source()
    folder, files = Path(settings.output), score_files(scorer.name(model))
    with contextlib.ExitStack() as open_:
        launcher = open_.enter_context(open_launcher(settings))
        seats = launcher.seats
        dtype = "fp32" if scorer.kind == REFERENCE else chosen_dtype(settings, seats)
        make_folder(folder)
        fingerprint = _fingerprint(settings, scorer, model, dtype, references)
        open_.enter_context(record_errors(folder))
        if anew:
            _take_out(out, files)
        with _others_explained(out):
            record = open_.enter_context(open_record(out, fingerprint, files))
        open_.enter_context(log_into(Path(settings.log_file or folder / LOG_FILE), settings.log_format))
        withdrawn = withdraw_stale(record, out)
        if withdrawn:
            say(f"{withdrawn:,} scores are of captions that were done again, and are taken out.")
        if settings.retry_failed:
            record.withdraw(FAILED_SCORES, None)
        _greet(settings, source, seats, model, dtype, scorer, record)
        run_file = RunFile(folder, fingerprint, dataclasses.asdict(settings))
        note(f"scores, run {run_file.number}, process {os.getpid()}")
        run_file.note(seats=[dataclasses.asdict(seat) for seat in seats], model=dataclasses.asdict(model))
        if memory:
            run_file.note(memory=memory)
        stop.before_exit = lambda code: run_file.end(exit_code=code)
        metrics = Metrics(settings.metrics_port) if settings.metrics_port else None
        if metrics:
            open_.callback(metrics.close)
        with run_file.noting_errors():
            stage = Stage(
                settings, source, open_source, launcher, model, dtype, record, run_file, stop, laps, metrics,
                scorer=scorer, files=files,
            )  # fmt: skip
            outcome = stage.run()
        found = averages(out, settings.group_by) if outcome.complete else None
        code = _exit_code(settings, record, outcome, stop)
        run_file.end(
            totals=outcome.totals(), rows=record.counts, exit_code=code, averages=found and found.as_json()
        )  # fmt: skip
        _conclude(out, outcome, record, stop, seats, found, model, again)
    return code


def _of_stage(settings: Settings, out: Path, scorer: Scorer, model: Model) -> Settings:
    """What the second stage runs by: its own model, asked its own question, in its own folder."""
    kept = {name: getattr(settings, name) for name in SCORE_OPTIONS}
    if scorer.kind == REFERENCE:  # it computes nothing that a GPU could
        kept |= {"device": "cpu", "gpus": "all", "num_gpus": None, "workers_per_gpu": 1, "gpus_per_worker": 1}
        kept |= {"launcher": "local", "ray_address": ""}
    prompt = scorer.rubric if scorer.kind == JUDGE else "a caption"
    return Settings(input=os.fspath(out), output=os.fspath(out / FOLDER), model=model.folder, prompt=prompt, **kept)


def _take_out(out: Path, files: RowFiles) -> None:
    with contextlib.suppress(FileNotFoundError):  # there are none
        fingerprint = checkpoint.read(out, files.folder).fingerprint
        with open_record(out, fingerprint or {}, files) as record:
            count = record.withdraw(files.done, None) + record.withdraw(files.failed, None)
        if count:
            say(f"{count:,} scores are taken out (--anew).")


def check_scorer(settings: Settings, out: Path, scorer: Scorer, model: Model) -> None:
    """Raises OtherJob: the folder has scores that are others. Their precision is known when the workers are."""
    settings = _of_stage(settings, out, scorer, model)
    references = References(scorer.reference) if scorer.kind == REFERENCE else None
    before = {}
    with contextlib.suppress(OSError, checkpoint.Error):  # what is wrong with it is said by whoever opens it
        before = checkpoint.read(out, FOLDER).fingerprint or {}
    fingerprint = _fingerprint(settings, scorer, model, before.get("dtype", ""), references)
    with _others_explained(out):
        compare_with_record(out, fingerprint, score_files(scorer.name(model)))


@contextlib.contextmanager
def _others_explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OtherJob as error:
        if not isinstance(error.__cause__, checkpoint.Mismatch):
            raise
        field, old, new = (getattr(error.__cause__, name) for name in ("field", "old", "new"))
        raise OtherJob(
            f"the scores in {out} are others: their {field.replace('_', ' ')} was {old!r} and is now {new!r}",
            f"go on as before, or python -m caption.score {out} … --anew takes them out first",
        ) from error


def _fingerprint(
    settings: Settings, scorer: Scorer, model: Model, dtype: str, references: References | None
) -> dict[str, Any]:
    """What can't change between two runs that score one folder."""
    fields: dict[str, Any] = {"scorer": scorer.name(model), "model": model.identity, "row_format": _ROW_FORMAT}
    if references:
        return fields | {"reference": references.identity}
    fields |= {"dtype": dtype, "max_pixels": settings.max_pixels}
    return fields | ({"rubric": scorer.rubric, "max_new_tokens": settings.max_new_tokens} if scorer.writes else {})


def _greet(
    settings: Settings, source: ScoreSource, seats: Sequence[Seat], model: Model, dtype: str, scorer: Scorer,
    record: checkpoint.Record,
) -> None:  # fmt: skip
    before = sum(record.counts.values())
    say(f"Score   {source.described}: {source.size():,}" + (f", {before:,} of them scored before" if before else ""))
    if scorer.kind == REFERENCE:
        say(
            f"Scorer  agreement with the reference {scorer.reference}, chrF++ on {', '.join(one.name for one in seats)}"
        )
    else:
        say(summary.model_line(settings, seats, scorer.name(model), dtype).replace("Model ", "Scorer", 1))


def _conclude(
    out: Path, outcome: Outcome, record: checkpoint.Record, stop: StopSignals, seats: Sequence[Seat],
    found: Averages | None, model: Model, again: str,
) -> None:  # fmt: skip
    for sentence in idle.sentences(outcome.idle, outcome.total_seconds, seats[0].loaders) if outcome.captioned else ():
        say(sentence)
    failed = record.counts[FAILED_SCORES]
    say(f"Scores: {out / SCORES}" + (f", failures: {out / FAILED_SCORES}" if failed else ""))
    rate = outcome.captioned / outcome.seconds if outcome.seconds else 0.0
    pace = f" in {clock(outcome.seconds)} ({images_a_second(rate)})" if outcome.captioned else ""
    errors = f" ({', '.join(f'{count:,} {name}' for name, count in outcome.errors.most_common())})"
    figures = f"{outcome.captioned:,} scored{pace}, {outcome.failed:,} failed{errors if outcome.errors else ''}"
    figures += f", {outcome.skipped:,} done before"
    if stop.signal and not outcome.complete:
        say(f"Stopped by {stop.signal.name}: {figures}. To go on, type the same command again: {again}")
        return
    embedded = f" {model.name} is a tiny embedded model, for trying and tests." * _is_embedded(model)
    say(f"Finished: {figures}.{embedded}")
    for line in found.lines() if found else ():
        say(line)


def _is_embedded(model: Model) -> bool:
    return Path(model.folder) in EMBEDDED.values()


def _exit_code(settings: Settings, record: checkpoint.Record, outcome: Outcome, stop: StopSignals) -> int:
    if stop.signal and not outcome.complete:
        return 128 + stop.signal
    rows = record.counts
    return 3 if rows[FAILED_SCORES] and (settings.strict or not rows[SCORES]) else 0
