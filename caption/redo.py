"""Redo: which rows a user wants done again; the only way a row is ever replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from caption.errors import UsageError
from caption.outputs.rows import CAPTIONS, FAILED
from checkpoint import Record


def withdraw_rows(record: Record, out: Path, retry_failed: bool, redo: str | None) -> int:
    """Takes out the rows that are to be done again; their images are then open like new ones.

    Args:
        retry_failed: all rows of ``failed.jsonl``.
        redo: a flag, for all captions that have it; or a text file with an id a line.

    Returns:
        How many rows were taken out.

    Raises:
        UsageError: ``redo`` is no readable file, and no caption has such a flag.
        checkpoint.Error, OSError: the row files can't be written anew; then nothing has changed.
    """
    count = record.withdraw(FAILED, None) if retry_failed else 0
    if redo is None:
        return count
    if Path(redo).is_file():
        wanted = _listed(Path(redo))
        return count + record.withdraw(CAPTIONS, wanted) + record.withdraw(FAILED, wanted)
    flagged = list(_flagged(out / CAPTIONS, redo))
    if not flagged:
        raise UsageError(f"--redo {redo}: no caption has this flag, and there is no such file", "see flags in the rows")
    return count + record.withdraw(CAPTIONS, flagged)


def _listed(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--redo: can't read the ids in {path}", "write one id a line, as UTF-8") from error


def _flagged(path: Path, flag: str) -> Iterator[str]:
    with path.open("rb") as file:
        for line in file:
            if flag.encode() in line and flag in (row := orjson.loads(line))["flags"]:
                yield row["id"]
