"""``python -m caption.verify OUT [INPUT]``: is every image there exactly once, and every byte as it was written?"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

import checkpoint
from caption.commandline import Parser
from caption.console import complain, say
from caption.errors import CaptionError, Damaged, OutputError, UsageError
from caption.outputs.rows import CAPTIONS, FAILED
from caption.sametext import repeated_texts
from caption.score.rows import FAILED_SCORES, SCORES
from caption.score.rows import FOLDER as SCORES_FOLDER
from caption.sources import open_source
from checkpoint.ids import IdSet, digest

_SHOWN = 80  # letters of a caption
_BLOCK = 65_536  # ids looked up at once


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 only if all holds, 4 if something is wrong, 2 for wrong use."""
    parser = Parser(
        prog="python -m caption.verify",
        description="Check that every image of INPUT stands once in OUT, and that OUT is as it was written.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="output folder of a job")
    parser.add_argument("input", metavar="INPUT", type=Path, nargs="?", help="its input; default is the job's own")
    parser.add_argument("--repair", action="store_true", help="mend what can be mended without losing a whole row")
    try:
        options = parser.parse_args(argv)
        with _readable(options.out):
            return _verify(options.out, options.input, options.repair)
    except CaptionError as error:
        complain(f"caption: {str(error).rstrip('.')}.")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


@contextlib.contextmanager
def _readable(out: Path) -> Iterator[None]:
    """What can't be read becomes one sentence; what is wrong in what can be read is a problem that is listed."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"can't read {error.filename or out}: {error.strerror or error}",
            "check that it is there and its permissions",
        ) from error
    except checkpoint.Error as error:  # it changed since it was checked
        raise OutputError(f"can't read {out}: {error}", "try once more") from error


def _verify(out: Path, input: Path | None, repair: bool) -> int:
    if not (out / "checkpoint").is_dir():
        raise OutputError(f"{out} is no output folder of a job", "give the --output of a run")
    if repair:
        _repair(out)
    problems, job, run_file_problem = checkpoint.check(out), {}, None
    if (out / SCORES_FOLDER / "checkpoint.json").exists():
        problems += checkpoint.check(out, SCORES_FOLDER)
    try:
        job = _fingerprint(out)
    except Damaged as error:
        run_file_problem = str(error)
    if not problems:
        view = checkpoint.read(out)
        rows = view.counts
        say(f"{out}: {rows[CAPTIONS]:,} captioned, {rows[FAILED]:,} failed, commit of {view.time}")
        if (out / SCORES_FOLDER / "checkpoint.json").exists():
            scores = checkpoint.read(out, SCORES_FOLDER)
            say(f"{out}: {scores.counts[SCORES]:,} scored, {scores.counts[FAILED_SCORES]:,} failed scores")
        own_input = job.get("input")
        if input or (own_input and (os.path.exists(own_input) or "{" in own_input)):
            problems += _compare(out, view, input or Path(own_input), job)
        else:
            unknown = f"INPUT {own_input} is not there" if own_input else "INPUT is not known"
            say(f"{unknown}: rows are not compared with it (give it as the second argument).")
        for text, images, example in repeated_texts(out / CAPTIONS, rows[CAPTIONS]):
            say(f"Note: {images:,} different images have the same caption, as {example}: {text[:_SHOWN]!r}")
    problems += [run_file_problem] if run_file_problem else []
    for problem in problems:
        say(f"Wrong: {problem}.")
    if problems:
        say(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}. {_next_step(out, repair)}")
        return Damaged.exit_code
    say("All holds: no id twice, no torn line; checksums, hashes and counts agree.")
    return 0


def _repair(out: Path) -> None:
    try:
        done = checkpoint.repair(out)
        if (out / SCORES_FOLDER).is_dir():
            done += checkpoint.repair(out, (SCORES, FAILED_SCORES), SCORES_FOLDER)
        done += _set_aside_run_file(out)
    except checkpoint.Busy as error:
        raise UsageError(f"{out} is in use by {error.holder or 'a run'}", "stop it before a repair") from error
    except (OSError, checkpoint.Error) as error:
        raise OutputError(f"can't repair {out}: {error}", "mend this first; the old files are as they were") from error
    for step in done or ["There was nothing to repair"]:
        say(f"{step[0].upper()}{step[1:]}.")


def _set_aside_run_file(out: Path) -> list[str]:
    """Renames a damaged run.json, so that the next run makes it anew; what was done in words."""
    path, aside = out / "run.json", out / "run.json.damaged"
    try:
        _fingerprint(out)
    except Damaged:
        path.replace(aside)
        return [f"renamed {path}, which was damaged, to {aside.name}: the next run makes it anew"]
    return []


def _next_step(out: Path, repaired: bool) -> str:
    if repaired:
        return "A repair could not mend this: nothing that is whole was lost."
    return f"The run's own command goes on where it can; else python -m caption.verify {out} --repair mends it."


def _fingerprint(out: Path) -> dict[str, Any]:
    """Of the job, by its run.json: where it read from, and how; empty if there is none. Raises `Damaged`, OSError.

    With what its latest run left out, which is free to change.
    """
    path = out / "run.json"
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except orjson.JSONDecodeError as error:
        raise Damaged(f"{path} is damaged: it is no JSON") from error
    match content:
        case {"fingerprint": {"input": str()} as job, "runs": list(runs)} if all(isinstance(run, dict) for run in runs):
            latest = runs[-1].get("settings") if runs else None
            return {**job, "skip_existing": latest.get("skip_existing") if isinstance(latest, dict) else None}
    raise Damaged(f"{path} is damaged: it is JSON, and not that of a run.json")


def _compare(out: Path, view: checkpoint.View, input: Path, job: dict[str, Any]) -> list[str]:
    """Inputs against rows: inputs = captioned + failed + pending, and rows whose input is gone are orphaned."""
    skip = job.get("skip_existing")
    inputs = _ids_of(input, out, {**job, "skip_existing": ""})
    wanted = _ids_of(input, out, job) if skip else inputs
    problems = [f"{len(inputs.repeated()):,} ids stand more than once in {input}"] if inputs.repeated() else []
    rows, known, done = {}, {}, 0
    for name, extent in view.committed.items():
        rows[name] = known[name] = 0
        for ids in _ids(out / name, extent.rows):
            digests = [digest(id) for id in ids]
            rows[name] += len(ids)
            known[name] += int(inputs.contains(digests).sum())
            done += int(wanted.contains(digests).sum())
    pending = len(wanted) - done
    left_out = len(inputs) - sum(known.values()) - pending
    orphaned = sum(rows.values()) - sum(known.values())
    say(
        f"{input}: {len(inputs):,} images = {known[CAPTIONS]:,} captioned + {known[FAILED]:,} failed "
        + (f"+ {left_out:,} left out (--skip-existing {skip}) " if skip else "")
        + f"+ {pending:,} pending; {orphaned:,} rows are orphaned (their image is gone)"
    )
    if pending < 0:
        problems.append(f"{-pending:,} rows more than images")
    return problems


def _ids_of(input: Path, out: Path, job: dict[str, Any]) -> IdSet:
    return IdSet.of([digest(item.id) for item in open_source(input, 0, out, job).items()])


def _ids(path: Path, count: int) -> Iterator[list[str]]:
    """The ids of the first ``count`` rows, in blocks."""
    if not count:
        return  # it may be missing
    with path.open("rb") as file:
        while lines := list(itertools.islice(file, min(_BLOCK, count))):
            count -= len(lines)
            yield [orjson.loads(line)["id"] for line in lines]


if __name__ == "__main__":
    sys.exit(main())
