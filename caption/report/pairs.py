"""Pairs: the rows that two jobs have of the same image, and which of them are shown."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from caption.choose.scores import SCORE, Scores
from caption.errors import OutputError
from caption.outputs.rows import CAPTIONS
from caption.report.counters import Sample, Spread, Top
from caption.report.folder import Folder
from caption.report.words import words_of
from checkpoint.ids import digest

DIFFERENT, RANDOM, LONGER_A, LONGER_B = "most different", "random", "longer in A", "longer in B"
FLAGS_DIFFER, FAILED_ONE, SAME = "flags differ", "failed in one", "same text"
HIGHER_A, HIGHER_B = "higher score in A", "higher score in B"
_DIFFERENT, _LONGER, _HIGHER, _OTHERS = 36, 12, 18, 24
_BLOCK = 1000  # pairs whose scores are looked up together


class Keys:
    """Rows of one file by id and image: 24 bytes each."""

    def __init__(self):
        self._ids, self._images, self._offsets = array("Q"), array("Q"), array("Q")

    def add(self, offset: int, row: dict[str, Any]) -> None:
        self._ids.append(_short(row["id"]))
        self._images.append(_short(row["image"]))
        self._offsets.append(offset)

    def by(self, name: str) -> np.ndarray:
        """uint64 of all rows: "id" or "image"."""
        return np.frombuffer(self._ids if name == "id" else self._images, np.uint64)

    def offset(self, place: int) -> int:
        return self._offsets[place]


class Pair(NamedTuple):
    """Attributes:
    a, b: the two rows; that of a failed image has an error in place of a caption.
    alike: the share of their words that stands in both, 0 to 1; 0 if one has failed.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    alike: float

    @property
    def ahead(self) -> float:
        """By how much the score of A is higher; 0 where one has none."""
        return self.a[SCORE] - self.b[SCORE] if SCORE in self.a and SCORE in self.b else 0.0


def matches(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each key of ``a`` its place in ``b``, or -1; of keys that stand more than once only the first counts."""
    partner = np.full(len(a), -1, np.int64)
    _, first_a, first_b = np.intersect1d(a, b, return_indices=True)
    partner[first_a] = first_b
    return partner


class Pairs:
    """What two jobs made of the same images.

    Args:
        samples: how many pairs are drawn at random.

    Attributes:
        by: "id", or "image" where the jobs have no id in common (they asked other prompts).
        both: images with a caption in both; same: ... and the same one.
        alike: of these, percent of the words that stand in both.
        only_a, only_b: captions whose image has no row in the other job.
        failed_a, failed_b: images that failed in one and have a caption in the other.
        flags_a, flags_b: by flag, captions that have it where the other's has not.
        scored: images of which both captions have a score; higher_a, higher_b: ... and that of one is higher.
    """

    def __init__(self, a: Folder, b: Folder, keys: dict[str, Keys], scores: Sequence[Scores], samples: int):
        """keys: "a", "b" of the captions, "failed a", "failed b" of the failures; scores: of a and b."""
        self.by = "id" if len(np.intersect1d(keys["a"].by("id"), keys["b"].by("id"))) else "image"
        self._a, self._b, self._keys, self._scores = a, b, keys, scores
        self.scored = self.higher_a = self.higher_b = 0
        self.both = self.same = self.failed_a = self.failed_b = 0
        self.alike = Spread()
        self.flags_a, self.flags_b = Counter(), Counter()
        self._different, self._longer_a, self._longer_b = Top(_DIFFERENT), Top(_LONGER), Top(_LONGER)
        self._higher_a, self._higher_b = Top(_HIGHER), Top(_HIGHER)
        self._random = Sample(samples, RANDOM)
        self._samples = {name: Sample(_OTHERS, name) for name in (FLAGS_DIFFER, FAILED_ONE, SAME)}
        self._read_pairs()
        self._read_failures()
        self.only_a = a.counts[CAPTIONS] - self.both - self.failed_b
        self.only_b = b.counts[CAPTIONS] - self.both - self.failed_a

    def _read_pairs(self) -> None:
        partners = matches(self._keys["a"].by(self.by), self._keys["b"].by(self.by))
        rows = zip(self._a.captions(), self._rows_of(self._b, self._keys["b"], partners))
        pairs = ((a.row, b) for a, b in rows if b is not None)
        while block := list(itertools.islice(pairs, _BLOCK)):
            for scores, side in zip(self._scores, zip(*block)):
                scores.add_to(side)
            for a, b in block:
                self._add(a, b)

    def _read_failures(self) -> None:
        for name, other, folder, of in (
            ("failed b", "a", self._a, self._b),
            ("failed a", "b", self._b, self._a),
        ):
            partners = matches(self._keys[name].by(self.by), self._keys[other].by(self.by))
            for (_, failed), row in zip(of.failures(), self._rows_of(folder, self._keys[other], partners)):
                if row is None:
                    continue
                pair = Pair(row, failed, 0.0) if other == "a" else Pair(failed, row, 0.0)
                self._samples[FAILED_ONE].add(pair)
                if other == "a":
                    self.failed_b += 1
                else:
                    self.failed_a += 1

    def _rows_of(self, folder: Folder, keys: Keys, places: np.ndarray) -> Iterator[dict[str, Any] | None]:
        """Rows of its captions.jsonl at these places; None for -1."""
        if not (places >= 0).any():
            yield from (None for _ in places)
            return
        path = folder.out / CAPTIONS
        try:
            with path.open("rb") as file:
                for place in places.tolist():
                    if place < 0:
                        yield None
                        continue
                    file.seek(keys.offset(place))
                    yield orjson.loads(file.readline())
        except (OSError, ValueError) as error:
            raise OutputError(f"{path} was changed while it was read", "try once more") from error

    def _add(self, a: dict[str, Any], b: dict[str, Any]) -> None:
        words = words_of(a["caption"]), words_of(b["caption"])
        first, second = set(words[0]), set(words[1])
        same = a["caption"] == b["caption"]
        pair = Pair(a, b, 1.0 if same else len(first & second) / (len(first | second) or 1))
        self.both += 1
        self.alike.add(round(100 * pair.alike))
        self._random.add(pair)
        if same:
            self.same += 1
            self._samples[SAME].add(pair)
        else:
            self._different.add(1 - pair.alike, pair)
            if longer := len(words[0]) - len(words[1]):
                (self._longer_a if longer > 0 else self._longer_b).add(abs(longer), pair)
        if SCORE in a and SCORE in b:
            self.scored += 1
            if pair.ahead:
                higher = pair.ahead > 0
                self.higher_a, self.higher_b = self.higher_a + higher, self.higher_b + (not higher)
                (self._higher_a if higher else self._higher_b).add(abs(pair.ahead), pair)
        flags = set(a["flags"]), set(b["flags"])
        if flags[0] != flags[1]:
            self._samples[FLAGS_DIFFER].add(pair)
            self.flags_a.update(flags[0] - flags[1])
            self.flags_b.update(flags[1] - flags[0])

    def shown(self) -> list[tuple[Pair, list[str]]]:
        """Pairs with the sets that they stand for, each once; the most different first."""
        found: dict[str, tuple[Pair, list[str]]] = {}
        for name, pairs in (
            (DIFFERENT, self._different.rows),
            (RANDOM, self._random.rows),
            (LONGER_A, self._longer_a.rows),
            (LONGER_B, self._longer_b.rows),
            (HIGHER_A, self._higher_a.rows),
            (HIGHER_B, self._higher_b.rows),
            *((name, sample.rows) for name, sample in self._samples.items()),
        ):
            for pair in pairs:
                found.setdefault(pair.a["id"], (pair, []))[1].append(name)
        return sorted(found.values(), key=lambda entry: entry[0].alike)


def _short(text: str) -> int:
    return int.from_bytes(digest(text)[:8], "little")
