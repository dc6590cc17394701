"""Keys: figures by id for millions of rows, in arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from checkpoint.ids import digest


class Keys:
    """A number for each id, to look up; 16 bytes a row.

    Args:
        pairs: id and number; of an id that stands twice, one of its numbers is kept.
    """

    def __init__(self, pairs: Iterable[tuple[str, float]]):
        keys, values = array("Q"), array("d")
        for id, value in pairs:
            keys.append(_key(id))
            values.append(value)
        order = np.argsort(keys, kind="stable")
        self._keys, self._values = np.asarray(keys, np.uint64)[order], np.asarray(values)[order]

    def get(self, id: str) -> float | None:
        """The number of this id; None if it has none."""
        key = np.uint64(_key(id))
        place = int(self._keys.searchsorted(key))
        return float(self._values[place]) if place < len(self._keys) and self._keys[place] == key else None


def _key(id: str) -> int:
    return int.from_bytes(digest(id)[:8], "little")


def whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of ours; a torn one at its end, which a record would cut, is none."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"}\n"):
                    yield orjson.loads(line)
