"""Redo: which rows a user wants done again; the only way a row is ever replaced."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from caption.errors import Damaged, UsageError
from caption.guard import FLAGS
from caption.outputs.rows import CAPTIONS, FAILED
from caption.runfile import read_run_file
from checkpoint import Record

_FINISHED = (0, 3)  # exit codes of a run that has done all of the input


def withdraw_rows(
    record: Record, out: Path, retry_failed: bool, redo: str | None, say: Callable[[str], None] = print
) -> int:
    """Takes out the rows that are to be done again; their images are then open like new ones.

    Args:
        retry_failed: all rows of ``failed.jsonl``.
        redo: a flag, for all captions that have it, be it none; or a text file with an id a line.
        say: gets a sentence about ids that have no row.

    Returns:
        How many rows were taken out.

    Raises:
        UsageError: ``redo`` is neither a file that can be read nor a flag; nothing has changed.
        checkpoint.Error, OSError: the row files can't be written anew; then nothing has changed.
    """
    count = 0
    if redo is not None and os.path.isfile(redo):
        wanted = _listed(redo)
        count = record.withdraw(CAPTIONS, wanted) + record.withdraw(FAILED, wanted)
        if count < len(wanted):
            say(_without_row(len(wanted) - count, len(wanted)))
    elif redo is not None:
        _check_flag(redo)
        count = record.withdraw(CAPTIONS, list(_flagged(out / CAPTIONS, redo)))
    return count + (record.withdraw(FAILED, None) if retry_failed else 0)


def ids_to_redo(out: Path, retry_failed: bool, redo: str | None) -> frozenset[str]:
    """The ids whose rows ``withdraw_rows`` would take out. Raises UsageError, OSError as it does."""
    ids: set[str] = set()
    if redo is not None and os.path.isfile(redo):
        ids |= _listed(redo)
    elif redo is not None:
        _check_flag(redo)
        ids.update(_flagged(out / CAPTIONS, redo))
    if retry_failed:
        ids.update(row["id"] for row in _rows(out / FAILED))
    return frozenset(ids)


def _check_flag(redo: str) -> None:
    if redo not in FLAGS:
        nearest = difflib.get_close_matches(redo, FLAGS, n=1)
        remedy = f"{nearest[0]} is the nearest flag" if nearest else f"the flags are {', '.join(FLAGS)}"
        raise UsageError(f"--redo {redo}: there is no such flag and no such file", remedy)


def is_under_way(out: Path, flag: str | None) -> bool:
    """Whether a run before has taken out the captions with this flag, and no run since has come to the job's end.

    Then none is left of those that were meant: what has the flag now was made since.
    """
    if flag not in FLAGS:
        return False
    try:
        runs = read_run_file(out)["runs"]
    except (FileNotFoundError, Damaged):
        return False
    since_the_end = itertools.takewhile(lambda run: run.get("exit_code") not in _FINISHED, reversed(runs))
    return any(run.get("settings", {}).get("redo") == flag for run in since_the_end)


def _listed(path: str) -> set[str]:
    """The ids in a file. A line ends at a newline only: ids may hold all else that ``splitlines`` splits at."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--redo: can't read the ids in {path}", "write one id a line, as UTF-8") from error
    return {line.removesuffix("\r") for line in text.split("\n")} - {""}


def _without_row(unknown: int, listed: int) -> str:
    return (
        f"{unknown:,} of the {listed:,} ids to do again {'has' if unknown == 1 else 'have'} no row: "
        "no such image was captioned or failed so far."
    )


def _flagged(path: Path, flag: str) -> Iterator[str]:
    return (row["id"] for row in _rows(path, flag.encode()) if flag in row["flags"])


def _rows(path: Path, with_: bytes = b"") -> Iterator[dict]:
    """Rows whose line holds this; one that a killed run has left torn, of which a record is cleared, is none."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            if with_ in line and line.endswith(b"}\n"):
                yield orjson.loads(line)
