"""``python -m caption.verify OUT [INPUT]``: is every image there exactly once, and every byte as it was written?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

import checkpoint
from caption.errors import CaptionError, Damaged, OutputError, UsageError
from caption.outputs.rows import CAPTIONS, FAILED
from caption.sources import open_source
from checkpoint.ids import IdSet, digest

_BLOCK = 65_536  # ids looked up at once


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 only if all holds, 4 if something is wrong, 2 for wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m caption.verify",
        description="Check that every image of INPUT stands once in OUT, and that OUT is as it was written.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="output folder of a job")
    parser.add_argument("input", metavar="INPUT", type=Path, nargs="?", help="its input; default is the job's own")
    parser.add_argument("--repair", action="store_true", help="mend what can be mended without losing a whole row")
    options = parser.parse_args(argv)
    try:
        return _verify(options.out, options.input, options.repair)
    except CaptionError as error:
        print(f"caption: {str(error).rstrip('.')}.", file=sys.stderr)
        return error.exit_code


def _verify(out: Path, input: Path | None, repair: bool) -> int:
    if not (out / "checkpoint").is_dir():
        raise OutputError(f"{out} is no output folder of a job", "give the --output of a run")
    if repair:
        _repair(out)
    problems = checkpoint.check(out)
    if not problems:
        view = checkpoint.read(out)
        rows = view.counts
        print(f"{out}: {rows[CAPTIONS]:,} captioned, {rows[FAILED]:,} failed, commit of {view.time}")
        source = input or _own_input(out)
        if source:
            problems += _compare(out, view, source)
    for problem in problems:
        print(f"Wrong: {problem}.")
    if problems:
        print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}. {_next_step(out, repair)}")
        return Damaged.exit_code
    print("All holds: no id twice, no torn line; checksums, hashes and counts agree.")
    return 0


def _repair(out: Path) -> None:
    try:
        done = checkpoint.repair(out)
    except checkpoint.Busy as error:
        raise UsageError(f"{out} is in use by {error.holder or 'a run'}", "stop it before a repair") from error
    except (OSError, checkpoint.Error) as error:
        raise OutputError(f"can't repair {out}: {error}", "mend this first; the old files are as they were") from error
    for step in done or ["There was nothing to repair"]:
        print(f"{step[0].upper()}{step[1:]}.")


def _next_step(out: Path, repaired: bool) -> str:
    if repaired:
        return "A repair could not mend this: nothing that is whole was lost."
    return f"The run's own command goes on where it can; else python -m caption.verify {out} --repair mends it."


def _own_input(out: Path) -> Path | None:
    """Where the job read from, if that can still be seen from here."""
    try:
        path = Path(orjson.loads((out / "run.json").read_bytes())["fingerprint"]["input"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return path if path.exists() else None


def _compare(out: Path, view: checkpoint.View, input: Path) -> list[str]:
    """Inputs against rows: inputs = captioned + failed + pending, and rows whose input is gone are orphaned."""
    inputs = IdSet.of([digest(item.id) for item in open_source(input, 0, out).items()])
    problems = [f"{len(inputs.repeated()):,} ids stand more than once in {input}"] if inputs.repeated() else []
    rows, known = {}, {}
    for name, extent in view.committed.items():
        rows[name] = known[name] = 0
        for ids in _ids(out / name, extent.rows):
            rows[name] += len(ids)
            known[name] += int(inputs.contains([digest(id) for id in ids]).sum())
    pending = len(inputs) - sum(known.values())
    orphaned = sum(rows.values()) - sum(known.values())
    print(
        f"{input}: {len(inputs):,} images = {known[CAPTIONS]:,} captioned + {known[FAILED]:,} failed "
        f"+ {pending:,} pending; {orphaned:,} rows are orphaned (their image is gone)"
    )
    if pending < 0:
        problems.append(f"{-pending:,} rows more than images")
    return problems


def _ids(path: Path, count: int) -> Iterator[list[str]]:
    """The ids of the first ``count`` rows, in blocks."""
    with path.open("rb") as file:
        while count > 0:
            lines = [line for _, line in zip(range(min(_BLOCK, count)), file)]
            count -= len(lines)
            yield [orjson.loads(line)["id"] for line in lines]


if __name__ == "__main__":
    sys.exit(main())
