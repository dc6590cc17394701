"""SameText: one text on many different images, which is no matter of one caption and so none of the guard's."""

from __future__ import annotations

import hashlib
import itertools
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


def repeated_texts(path: Path, count: int) -> list[Repeated]:
    """The texts that stand on most images, of the first ``count`` rows of a ``captions.jsonl``; often none.

    Holds 8 bytes a row, and reads the file twice.
    """
    digests = np.fromiter((_digest(row["caption"]) for row in _rows(path, count)), np.uint64)
    values, times = np.unique(digests, return_counts=True)
    least = max(_FEWEST, _SHARE * len(digests))
    order = np.argsort(-times, kind="stable")[:_SHOWN]
    wanted = {int(values[place]) for place in order if times[place] >= least}
    if not wanted:
        return []
    images: dict[int, set[int]] = {digest: set() for digest in wanted}
    first: dict[int, dict[str, Any]] = {}
    for row in _rows(path, count):
        digest = _digest(row["caption"])
        if digest in wanted:
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
