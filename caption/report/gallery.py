"""Gallery: which rows are shown, chosen in one pass and always the same ones for the same rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from caption.choose.scores import SCORE
from caption.report.counters import Bounded, Sample, Top
from caption.sametext import Repeated

RANDOM, LONGEST, SHORTEST, SAME = "random", "longest", "shortest", "same text"
LOWEST, HIGHEST = "lowest score", "highest score"
_EXTREME = 24  # longest, shortest; lowest, highest score
_EACH_FLAG, _FLAGGED = 12, 72  # rows of one flag, of all
_EACH_ERROR, _FAILED = 8, 48


@dataclass
class Card:
    """One row of the gallery.

    Attributes:
        row: of captions.jsonl or failed.jsonl.
        sets: why it is there: random, longest, shortest, lowest or highest score, same text, a flag, or the class of an
            error.
        failed: it has no caption.
    """

    row: dict[str, Any]
    sets: list[str] = field(default_factory=list)
    failed: bool = False


class Gallery:
    """Args:
        samples: how many random captions.

    Attributes:
        messages: of each class of error, how often each was given.
    """

    def __init__(self, samples: int):
        self._random = Sample(samples, RANDOM)
        self._longest, self._shortest = Top(_EXTREME), Top(_EXTREME)
        self._lowest, self._highest = Top(_EXTREME), Top(_EXTREME)
        self._flags: dict[str, Sample] = {}
        self._failed: dict[str, Sample] = {}
        self._same: dict[str, dict] = {}
        self.messages: dict[str, Bounded] = {}

    def add(self, row: dict[str, Any]) -> None:
        """A row of captions.jsonl, with its score if it has one."""
        length = len(row["caption"])
        self._random.add(row)
        self._longest.add(length, row)
        self._shortest.add(-length, row)
        if SCORE in row:
            self._lowest.add(-row[SCORE], row)
            self._highest.add(row[SCORE], row)
        for flag in row["flags"]:
            if flag not in self._flags:
                self._flags[flag] = Sample(_EACH_FLAG, flag)
            self._flags[flag].add(row)

    def add_failure(self, row: dict[str, Any]) -> None:
        """A row of failed.jsonl."""
        error = row["error"]
        if error not in self._failed:
            self._failed[error], self.messages[error] = Sample(_EACH_ERROR, error), Bounded(1000)
        self._failed[error].add(row)
        self.messages[error].update((row["message"][:200],))

    @property
    def random(self) -> list[dict[str, Any]]:
        return self._random.rows

    def cards(self, repeated: list[Repeated] = ()) -> list[Card]:
        """Each row once, with all that it stands for; those drawn at random first, the failed ones last."""
        cards: dict[str, Card] = {}

        def put(row: dict[str, Any], name: str) -> None:
            cards.setdefault(row["id"], Card(row)).sets.append(name)

        for row in sorted(self._random.rows, key=lambda row: row["id"]):
            put(row, RANDOM)
        extremes = {
            LOWEST: self._lowest, HIGHEST: self._highest, LONGEST: self._longest, SHORTEST: self._shortest,
        }  # fmt: skip
        for name, top in extremes.items():
            for row in top.rows:
                put(row, name)
        for flag, rows in _shared(self._flags, _FLAGGED):
            for row in rows:
                put(row, flag)
        texts = {one.text for one in repeated}
        for card in cards.values():
            if card.row["caption"] in texts:
                card.sets.append(SAME)
        failed = [Card(row, [error], failed=True) for error, rows in _shared(self._failed, _FAILED) for row in rows]
        return [*cards.values(), *failed]


def _shared(samples: dict[str, Sample], room: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """Of each kind some rows, together at most ``room``: as many of one as of another."""
    each = max(1, room // max(len(samples), 1))
    return [(name, sample.rows[:each]) for name, sample in sorted(samples.items())]
