"""Selection: which captions an export writes: those without some flags, of a condition, the best of each image."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from caption.choose.best import Best
from caption.choose.expression import Expression, parse_field, value_of
from caption.choose.scores import PARTS, SCORE, Scores
from caption.errors import Damaged, UsageError
from caption.outputs.committed import Committed, Row
from caption.outputs.ledger import Position
from caption.outputs.note import Note
from caption.outputs.rows import CAPTIONS
from caption.runfile import read_run_file
from caption.score.rows import SCORES

BLOCK = 1000  # rows that are looked at together
OUT = "out"  # field of a row that says which folder it is from, where there are several
_PROMPTS = 1 << 16  # more than an image is asked
_LOOKED = 1000  # rows of a folder in which the names of the input's own fields are looked for


class Selection:
    """Args:
        outs: the output folders.
        without: captions with one of these flags are left out.
        where: a condition; "" is none.
        best_by: a field, of which the highest value of each image is taken; "" takes all captions.

    Attributes:
        added: fields that the rows get beside their own.
        one_an_image: no image has more than one caption.
        left_out: captions by why; unknown: those that have not what a condition asks for, by name of the field.
        without_value: images that have no caption with the field of ``best_by``.
        chosen: with ``best_by``, captions by where they are from.

    Raises:
        UsageError: the condition or the field can't be read, or hangs on scores that are not there.
    """

    def __init__(self, outs: Sequence[Path], without: frozenset[str] = frozenset(), where: str = "", best_by: str = ""):
        self._outs, self._without, self._given = outs, without, (where, best_by)
        extra = _own_fields(outs) if where or best_by else ()
        self._where = Expression(where, extra) if where else None
        self._best_by = parse_field(best_by, extra, "--best-by") if best_by else None
        self._winners = np.empty(0, np.uint64)
        self._scores: list[Scores] = []
        asked = {**(self._where.fields if self._where else {}), **({best_by: self._best_by} if best_by else {})}
        self._scored = sorted({field.name for field in asked.values() if field.of_scores})
        if self._scored and not any((out / SCORES).exists() for out in outs):
            remedy = f"python -m caption.score {outs[0]} --scorer SCORER writes it"
            raise UsageError(f"{outs[0]} has no {SCORES}", remedy)
        self.one_an_image = bool(best_by)
        self._names = [os.fspath(out).encode(errors="replace").decode() for out in outs]
        self.added = (*((SCORE, *(name for name in self._scored if name != SCORE)) if self._scored else ()),
                      *((OUT,) if len(outs) > 1 else ()))  # fmt: skip
        self.left_out: Counter[str] = Counter()
        self.unknown: dict[str, Note] = {}
        self.without_value = 0
        self.chosen: Counter[str] = Counter()

    @property
    def settings(self) -> list[Any]:
        """By which an export knows whether it is the same selection."""
        return [sorted(self._without), *self._given, self._names[1:]]

    def read(self, committed: Committed) -> str:
        """Reads the scores, and with ``best_by`` all rows. Returns what, if it changes, can change the choice of rows
        that were looked at before.

        Raises:
            UsageError: the best is to be chosen among scores of several scorers.
            OutputError, Damaged: the scores can't be read.
        """
        if self._scored:
            names = [name.removeprefix(PARTS) for name in self._scored if name != SCORE]
            self._scores = [Scores(out, names) for out in self._outs]
        scorers = sorted({scorer for scores in self._scores for scorer in scores.scorers})
        if self._best_by and self._best_by.of_scores and len(scorers) > 1:
            problem = f"the scores are of several scorers ({', '.join(scorers)}), which do not compare"
            raise UsageError(problem, "score all captions by the same one")
        state = [scores.state for scores in self._scores]
        if self._best_by:
            self._find_best(committed)
            state += committed.state
        return orjson.dumps(state).decode() if state else ""

    def _find_best(self, committed: Committed) -> None:
        best, orders = Best(), _orders(self._outs)
        for block in blocks(committed.rows(Position())):
            for row in self._passing(block):
                value = value_of(self._best_by, row.data)
                rank = row.folder * _PROMPTS + orders[row.folder].get(row.data.get("prompt_name", ""), 0)
                best.add(row.data, row.end.bytes, math.nan if value is None else value, rank)
        self._winners = best.places()
        self.without_value = best.without_value
        self.left_out["as not the best of their image"] = best.beaten

    def kept(self, block: Sequence[Row]) -> list[Row]:
        """Those of some rows that are exported, with what is ``added``."""
        if not self._best_by:
            return list(self._passing(block))
        ends = np.fromiter((row.end.bytes for row in block), np.uint64, len(block))
        places = np.searchsorted(self._winners, ends)
        found = places < len(self._winners)
        found[found] = self._winners[places[found]] == ends[found]
        rows = [row for row, wins in zip(block, found.tolist()) if wins]
        self._add_fields(rows)
        self.chosen.update(self._origin(row) for row in rows)
        return rows

    def _origin(self, row: Row) -> str:
        """The folder, where there are several, and the prompt, where it has a name."""
        return " ".join(filter(None, (row.data.get(OUT), row.data.get("prompt_name"))))

    def _passing(self, block: Sequence[Row]) -> Iterator[Row]:
        rows = [row for row in block if not self._without.intersection(row.data["flags"])]
        self.left_out["by their flags"] += len(block) - len(rows)
        self._add_fields(rows)
        for row in rows:
            passes = self._where.test(row.data) if self._where else True
            if passes:
                yield row
            elif passes is None:
                self._note_unknown(row.data)
            else:
                self.left_out["by --where"] += 1

    def _note_unknown(self, row: dict[str, Any]) -> None:
        fields = [field for field in self._where.needed.values() if field.of(row) is None]
        for name in [field.name for field in fields] or ["values of one kind"]:
            what = f"captions have no {name}, for which --where asks, and are left out"
            self.unknown.setdefault(name, Note(what)).add(row["id"])

    def _add_fields(self, rows: Sequence[Row]) -> None:
        for folder, scores in enumerate(self._scores):
            scores.add_to([row.data for row in rows if row.folder == folder])
        if len(self._outs) > 1:
            for row in rows:
                row.data[OUT] = self._names[row.folder]


def _orders(outs: Sequence[Path]) -> list[dict[str, int]]:
    """Of each folder its prompts by their place among --prompts: rows stand in the order in which they were done."""
    orders = []
    for out in outs:
        try:
            names = read_run_file(out)["fingerprint"].get("prompts") or ()
        except (FileNotFoundError, Damaged):
            names = ()
        orders.append({name: place for place, name in enumerate(names)})
    return orders


def blocks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while block := list(itertools.islice(rows, BLOCK)):
        yield block


def _own_fields(outs: Sequence[Path]) -> set[str]:
    """Names in ``extra`` of the first rows."""
    found: set[str] = set()
    for out in outs:
        try:
            with (out / CAPTIONS).open("rb") as file:
                for line in itertools.islice(file, _LOOKED):
                    found.update(orjson.loads(line).get("extra") or ())
        except (OSError, ValueError):
            continue  # whoever reads the rows themselves says it
    return found
