"""Averages: what the scores of a folder come to, in all and by group."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from caption.choose.scores import SCORE
from caption.score.current import scored_captions
from caption.score.rows import SCORES

_SHOWN = 40  # groups; all of them stand in run.json
WITHOUT = "(none)"  # the group of rows that lack the field


@dataclass
class Group:
    count: int = 0
    average: float = 0.0

    def add(self, score: float) -> None:
        self.count += 1
        self.average += (score - self.average) / self.count


@dataclass
class Averages:
    """Attributes:
    spread: standard deviation of the scores.
    quartiles: below the first lies a quarter of the scores, below the second half of them, …
    parts: average of each part that all scores have.
    groups: by value of the field ``group_by``.
    """

    count: int
    average: float
    spread: float
    lowest: float
    quartiles: tuple[float, float, float]
    highest: float
    parts: dict[str, float] = field(default_factory=dict)
    group_by: str | None = None
    groups: dict[str, Group] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``run.json``."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people; a line for all, and one a group."""
        first, middle, third = self.quartiles
        if len(self.parts) > 1:
            yield f"Average of {', '.join(f'{name} {value:.4f}' for name, value in self.parts.items())}"
        if self.groups:
            width = min(40, max(map(len, self.groups)))
            if list(self.groups) == [WITHOUT]:
                yield f"No caption has a field {self.group_by} (--group-by): see a row's names in captions.jsonl"
            yield f"Average score by {self.group_by}:"
            most = sorted(self.groups.items(), key=lambda pair: -pair[1].count)[:_SHOWN]
            for name, group in sorted(most, key=lambda pair: -pair[1].average):
                yield f"  {name:<{width}} {group.average:>10.4f}  ({group.count:,})"
            if more := len(self.groups) - len(most):
                yield f"  and {more:,} smaller groups, which stand in run.json of the scores"
        yield (
            f"Average score {self.average:.4f}, spread {self.spread:.4f} (standard deviation); lowest "
            f"{self.lowest:.4f}, quartiles {first:.4f} {middle:.4f} {third:.4f}, highest {self.highest:.4f}; "
            f"{self.count:,} scores"
        )


def averages(out: Path, group_by: str | None) -> Averages | None:
    """Of all scores in the folder; None if there are none. group_by: a field of the captions' rows, or of ``extra``."""
    scores, parts = array("d"), Counter()
    seen: Counter = Counter()
    for row in _rows(out / SCORES):
        scores.append(row["score"])
        seen.update(row["parts"].keys())
        parts.update(row["parts"])
    if not scores:
        return None
    values = np.asarray(scores)
    low, first, middle, third, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    found = Averages(len(values), float(values.mean()), float(values.std()), low, (first, middle, third), high)
    found.parts = {name: total / len(scores) for name, total in parts.items() if seen[name] == len(scores)}
    if group_by:
        found.group_by, found.groups = group_by, _groups(out, group_by)
    return found


def _groups(out: Path, group_by: str) -> dict[str, Group]:
    groups: dict[str, Group] = {}
    for rows in scored_captions(out):
        for row in rows:
            groups.setdefault(_value(row, group_by), Group()).add(row[SCORE])
    return groups


def _value(row: dict[str, Any], name: str) -> str:
    value = (row.get("extra") or {}).get(name, row.get(name))
    if value is None or value == "" or value == []:
        return WITHOUT
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(text.split())  # a line each


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of scores; a torn one at the end, which the next run cuts, is none."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"}\n"):
                    yield orjson.loads(line)
