"""Current: which captions have a score, and which scores are of captions that were done again since."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from caption.choose.scores import SCORE, Scores
from caption.report.folder import Folder
from caption.score.rows import caption_crc32
from checkpoint import Record
from checkpoint.ids import IdSet, digest

_BLOCK = 4096  # rows looked at together


def withdraw_stale(record: Record, out: Path) -> int:
    """Takes out the scores, and failures, of captions that are no longer there or read differently; how many.

    Raises:
        checkpoint.Error, OSError: the row file can't be written anew; then nothing has changed.
    """
    if not any(record.counts.values()):
        return 0
    present = IdSet.of([])
    for block in _blocks(Folder(out).captions()):
        present.add([_digest(row["id"], caption_crc32(row["caption"])) for _, row in block])
    count = 0
    for name in (name for name, rows in record.counts.items() if rows):
        stale: list[str] = []
        with (out / name).open("rb") as file:
            for rows in _blocks(map(orjson.loads, file)):
                known = present.contains([_digest(row["id"], row.get("caption_crc32")) for row in rows])
                stale += [row["id"] for row, is_known in zip(rows, known.tolist()) if not is_known]
        count += record.withdraw(name, stale) if stale else 0
    return count


def _digest(id: str, caption: int | None) -> bytes:
    return digest(f"{caption} {id}")


def scored_captions(out: Path) -> Iterator[list[dict[str, Any]]]:
    """The committed rows of ``captions.jsonl`` that have a score, under SCORE, in blocks."""
    scores = Scores(out)
    for block in _blocks(Folder(out).captions()):
        rows = [located.row for located in block]
        scores.add_to(rows)
        yield [row for row in rows if SCORE in row]


def _blocks(items: Iterable[Any]) -> Iterator[list[Any]]:
    items = iter(items)
    while block := list(itertools.islice(items, _BLOCK)):
        yield block
