"""``python -m caption.merge SHARDS… --output OUT``: the shards of a job in one folder, as if one run had done all."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

import checkpoint
from caption.commandline import Parser, exit_code
from caption.console import say
from caption.errors import Damaged
from caption.figures import clock
from caption.jobstate import to_go_on, without
from caption.log import NAME as LOG_FILE
from caption.log import log_into
from caption.outputfolder import make_folder, open_record, record_errors
from caption.outputs.rows import CAPTIONS, FAILED
from caption.prompts import Prompts
from caption.runfile import RunFile
from caption.score.rows import SCORES
from caption.shard import image_of
from caption.shardset import ShardFolder, find_shards, reading
from caption.stop import StopSignals

_AT_ONCE = 4096  # rows that are appended together
_COMMIT_EVERY = 1 << 17  # rows
_SAY_EVERY = 10.0  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = Parser(
        prog="python -m caption.merge",
        description="Put the rows of all shards of a job into one folder, shard after shard. Killed at any moment, "
        "the same command goes on; typed again later, it adds what the shards have more by then.",
    )
    parser.add_argument(
        "shards", metavar="SHARDS", type=Path, nargs="+", help="folders of runs with --shard, or OUT with all of them"
    )
    parser.add_argument("--output", metavar="OUT", type=Path, required=True, help="folder for all of it")
    parser.add_argument("--partial", action="store_true", help="take what is committed, though shards are not done")

    def merge() -> int:
        options = parser.parse_args(argv)
        with StopSignals() as stop:
            return _merge(find_shards(options.shards, options.partial), options.output, stop)

    return exit_code(merge)


def _merge(shards: list[ShardFolder], out: Path, stop: StopSignals) -> int:
    begin = time.monotonic()
    fingerprint = {name: value for name, value in shards[0].view.fingerprint.items() if name != "shard"}
    make_folder(out)
    with record_errors(out), open_record(out, fingerprint) as record, log_into(out / LOG_FILE, "text"):
        rows = sum(sum(one.view.counts.values()) for one in shards)
        say(f"Merging {len(shards):,} of {shards[0].shard.of:,} shards, {rows:,} rows, into {out}")
        run_file = _begin_run(out, fingerprint, shards)
        stop.before_exit = lambda code: run_file.end(exit_code=code)
        with run_file.noting_errors():
            replaced = _withdraw_captioned(record, shards, out)
            added = _append_all(record, shards)
        counts, undone = record.counts, shards[0].shard.of - sum(not one.unfinished for one in shards)
        merged = {"shards": len(shards), "of": shards[0].shard.of, "rows": added}
        merged |= {} if undone else {"total": sum(counts.values())}
        run_file.end(exit_code=0, merged=merged, argv=_argv(out, shards))
    if replaced:
        say(f"{replaced:,} images that had failed have a caption now.")
    say(f"Captions: {out / CAPTIONS}" + (f", failures: {out / FAILED}" if counts[FAILED] else ""))
    took = clock(time.monotonic() - begin)
    say(f"Merged: {added:,} rows in {took}; {counts[CAPTIONS]:,} captioned, {counts[FAILED]:,} failed in all.")
    if any((one.path / SCORES).exists() for one in shards):
        say(f"Scores of shards are not taken over: python -m caption.score {out} --scorer MODEL scores all of it.")
    if undone:
        are = "shards are" if undone > 1 else "shard is"
        say(f"{undone:,} {are} not done: the same command, typed when all are, adds what is missing.")
    return 0


def _begin_run(out: Path, fingerprint: dict[str, Any], shards: list[ShardFolder]) -> RunFile:
    """An entry as of an unsharded run with the shards' settings, after those of all their runs."""
    runs = _runs(shards)
    last: dict[str, Any] = runs[-1] if runs else {}
    settings = last.get("settings", {}) | {"shard": None, "output": os.fspath(out)}
    run_file = RunFile(out, fingerprint, settings | {"retry_failed": False, "redo": None})
    run_file.add(runs)
    facts = {name: last[name] for name in ("cwd", "versions", "model", "seats") if name in last}
    environment = last.get("environment", {})
    facts["environment"] = {name: environment[name] for name in environment if name != "CAPTION_SHARD"}
    if precisions := [run["precision"] for run in runs if "precision" in run]:
        facts["precision"] = precisions[-1]  # what was too narrow in one shard is too narrow in the whole
    run_file.note(**facts)
    return run_file


def _runs(shards: list[ShardFolder]) -> list[dict[str, Any]]:
    return sorted((run for one in shards for run in one.runs), key=lambda run: str(run.get("begin")))


def _argv(out: Path, shards: list[ShardFolder]) -> list[str] | None:
    """The words of the run that would go on with the whole; None if no run of the shards was started by words."""
    last = next(reversed(_runs(shards)), {})
    if last.get("argv") is None:
        return None
    output = os.fspath(out if last.get("cwd") == os.getcwd() else out.resolve())
    return to_go_on(without(last["argv"], "--shard"), output)


def _withdraw_captioned(record: checkpoint.Record, shards: list[ShardFolder], out: Path) -> int:
    """Takes out failures of a merge before whose images have a caption in their shard by now; how many."""
    if not record.counts[FAILED]:
        return 0
    record.commit()
    failed = {orjson.loads(line)["id"] for line in checkpoint.read(out).rows(FAILED)}
    again = set()
    for one in shards:
        for rows in _rows(one, CAPTIONS):
            again |= failed.intersection(id for id, _ in rows)
            record.beat()
    return record.withdraw(FAILED, again) if again else 0


def _append_all(record: checkpoint.Record, shards: list[ShardFolder]) -> int:
    """Appends the rows that have none yet; how many these were."""
    added, said = 0, time.monotonic()
    for one in shards:
        for name in (CAPTIONS, FAILED):
            for rows in _rows(one, name):
                new = [row for row, done in zip(rows, record.done([id for id, _ in rows])) if not done]
                record.append(name, new)
                added += len(new)
                record.beat()  # rows that are there already bring no commit, which would do it
                if record.uncommitted >= _COMMIT_EVERY:
                    record.commit()
                if time.monotonic() - said >= _SAY_EVERY:
                    said = time.monotonic()
                    say(f"        {added:,} rows, now of shard {one.shard}")
    record.commit()
    return added


def _rows(one: ShardFolder, name: str) -> Iterator[list[tuple[str, bytes]]]:
    """The committed rows of a shard as (id, line), some thousands at once.

    Raises:
        Damaged: they are not what was committed, or an id belongs to another shard and could stand there, too.
    """
    prompts = Prompts("", one.view.fingerprint.get("prompts"), one.view.fingerprint.get("prompt_weights")).endings
    with reading(one.path):
        lines = one.view.rows(name)
        while block := list(itertools.islice(lines, _AT_ONCE)):
            rows = [(orjson.loads(line)["id"], line[:-1]) for line in block]
            for id, _ in rows:
                if not one.shard.holds(image_of(id, prompts)):
                    raise Damaged(
                        f"{one.path / name} has a row of {id!r}, which does not belong to shard {one.shard}",
                        "take the folder as the run wrote it",
                    )
            yield rows


if __name__ == "__main__":
    sys.exit(main())
