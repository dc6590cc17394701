"""SameText: one text on many different images, which is no matter of one caption and so none of the guard's."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

_FEWEST = 10  # images
_SHARE = 0.001  # of all rows: pictures do look alike
_SHOWN = 3  # texts


class Repeated(NamedTuple):
    """Attributes:
    text: the caption.
    images: on how many different images it stands.
    example: the id of one of them.
    """

    text: str
    images: int
    example: str


class Texts:
    """Captions, to know which are equal: 8 bytes each."""

    def __init__(self):
        self._digests = array("Q")

    def add(self, caption: str) -> None:
        self._digests.append(_digest(caption))

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def different(self) -> int:
        """How many different ones there are."""
        return len(np.unique(np.frombuffer(self._digests, np.uint64)))

    def most_repeated(self, number: int, least: float) -> set[int]:
        """Digests of those that were added most often, at least ``least`` times."""
        values, times = np.unique(np.frombuffer(self._digests, np.uint64), return_counts=True)
        order = np.argsort(-times, kind="stable")[:number]
        return {int(values[place]) for place in order if times[place] >= least}


def repeated_texts(path: Path, count: int, texts: Texts | None = None, shown: int = _SHOWN) -> list[Repeated]:
    """The texts that stand on most images, of the first ``count`` rows of a ``captions.jsonl``; often none.

    Holds 8 bytes a row, and reads the file twice; once at most if ``texts`` has the captions of these rows.
    """
    if texts is None:
        texts = Texts()
        for row in _rows(path, count):
            texts.add(row["caption"])
    least = max(_FEWEST, _SHARE * len(texts))
    wanted = texts.most_repeated(shown, least)
    if not wanted:
        return []
    images: dict[int, set[int]] = {digest: set() for digest in wanted}
    first: dict[int, dict[str, Any]] = {}
    for row in _rows(path, count):
        digest = _digest(row["caption"])
        if digest in wanted and "twin_of" not in row:  # which is the same picture under another name
            images[digest].add(_digest(row["image"]))
            first.setdefault(digest, row)
    found = [Repeated(row["caption"], len(images[digest]), row["id"]) for digest, row in first.items()]
    return sorted((one for one in found if one.text and one.images >= least), key=lambda one: -one.images)


def _rows(path: Path, count: int) -> Iterator[dict[str, Any]]:
    if count:
        with path.open("rb") as file:
            yield from map(orjson.loads, itertools.islice(file, count))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
