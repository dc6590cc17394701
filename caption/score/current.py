"""Current: which captions have a score, and which scores are of captions that were done again since."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from caption.choose.scores import SCORE, Scores
from caption.report.folder import Folder
from caption.score.rows import SCORES
from checkpoint import Record
from checkpoint.ids import IdSet, digest

_BLOCK = 4096  # rows looked at together


def withdraw_stale(record: Record, out: Path) -> int:
    """Takes out the scores of captions that are no longer there, or read differently; how many there were.

    Raises:
        checkpoint.Error, OSError: the row file can't be written anew; then nothing has changed.
    """
    if not record.counts[SCORES]:
        return 0
    right = IdSet.of([])
    for rows in scored_captions(out):
        right.add([digest(row["id"]) for row in rows])
    stale: list[str] = []
    with (out / SCORES).open("rb") as file:
        for lines in _blocks(file):
            ids = [orjson.loads(line)["id"] for line in lines]
            known = right.contains([digest(id) for id in ids])
            stale += [id for id, is_known in zip(ids, known.tolist()) if not is_known]
    return record.withdraw(SCORES, stale) if stale else 0


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
