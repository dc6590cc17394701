"""Scores: ``scores.jsonl`` of an output folder, by the ids of its captions; 32 bytes each and 8 a part."""

from __future__ import annotations

import math
import zlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from caption.errors import Damaged, OutputError
from caption.score.rows import SCORES, caption_crc32
from checkpoint.ids import digest

SCORE = "score"
PARTS = "parts."  # before the name of a part
_ANY = -1  # the CRC-32 of a caption, where a row of scores does not say it


def parts(row: dict[str, Any]) -> dict[str, float]:
    """The parts of a row of scores that are numbers."""
    found = row.get("parts")
    return {name: float(value) for name, value in found.items() if _is_number(value)} if isinstance(found, dict) else {}


class Scores:
    """What was scored so far. Of an id that stands more than once the last row counts, and of a caption that reads
    otherwise than the one that was scored, none.

    Args:
        out: output folder of a job; one without scores has none.
        names: which parts are wanted, less ``PARTS``.

    Attributes:
        state: bytes and CRC-32 of what was read: equal ones hold equal scores.
        scorers: how many rows each wrote.
        columns: the names that ``add_to`` gives, "score" and "parts.NAME".

    Raises:
        OutputError: the file can't be read.
        Damaged: a row of it is none.
    """

    def __init__(self, out: Path, names: Collection[str] = ()):
        self._out, self._path = out, out / SCORES
        self.state = (0, 0)
        self.scorers: Counter[str] = Counter()
        self.columns = (SCORE, *(PARTS + name for name in names))
        keys, starts, captions = array("Q"), array("Q"), array("q")
        values = {column: array("d") for column in self.columns}
        for offset, row in self._rows():
            keys.append(_key(row["id"]))
            starts.append(offset)
            caption = row.get("caption_crc32")
            captions.append(caption if isinstance(caption, int) and 0 <= caption < 1 << 32 else _ANY)
            self.scorers[str(row.get("scorer", ""))] += 1
            values[SCORE].append(_number(row.get("score")))
            found = parts(row) if names else {}
            for name in names:
                values[PARTS + name].append(found.get(name, math.nan))
        last = np.frombuffer(keys, np.uint64)[::-1]
        self._keys, places = np.unique(last, return_index=True)  # of equal ones the first, which is the last written
        places = len(last) - 1 - places
        self._captions = np.frombuffer(captions, np.int64)[places]
        self._starts = np.frombuffer(starts, np.uint64)[places]
        self._values = {column: np.frombuffer(found)[places] for column, found in values.items()}

    def __len__(self) -> int:
        return len(self._keys)

    def add_to(self, rows: Sequence[dict[str, Any]]) -> None:
        """Puts what is known of each caption's row into the row, under the names of the ``columns``."""
        places, known = self._find([row["id"] for row in rows])
        found = [
            (row, place)
            for row, place, caption in zip(compress(rows, known), places[known], self._captions[places[known]].tolist())
            if caption in (_ANY, caption_crc32(row["caption"]))
        ]
        for column, values in self._values.items():
            for row, place in found:
                value = float(values[place])
                if not math.isnan(value):
                    row[column] = value

    def rows(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The whole rows of a few ids, by id, as far as they have one. Raises OutputError."""
        places, known = self._find(ids)
        found = {}
        if not known.any():
            return found
        try:
            with self._path.open("rb") as file:
                for id, place, is_known in zip(ids, places, known):
                    if is_known:
                        file.seek(int(self._starts[place]))
                        found[id] = orjson.loads(file.readline())
        except (OSError, ValueError) as error:
            raise OutputError(f"{self._path} was changed while it was read", "try once more") from error
        return found

    def _find(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Places in the arrays, and which of them count."""
        if not len(self):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
        keys = np.fromiter(map(_key, ids), np.uint64, len(ids))
        places = np.minimum(np.searchsorted(self._keys, keys), len(self) - 1)
        return places, self._keys[places] == keys

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Whole rows with their offsets; a last one that is not ended is still being written."""
        offset = crc = 0
        try:
            with self._path.open("rb", buffering=1 << 20) as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    row = orjson.loads(line)
                    if not (isinstance(row, dict) and isinstance(row.get("id"), str)):
                        raise ValueError
                    yield offset, row
                    offset, crc = offset + len(line), zlib.crc32(line, crc)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(f"can't read {self._path}: {error.strerror}", "check its permissions") from error
        except ValueError as error:
            problem = f"{self._path} has no whole row at byte {offset:,}"
            raise Damaged(problem, f"python -m caption.verify {self._out} tells more") from error
        self.state = offset, crc


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float:
    return float(value) if _is_number(value) else math.nan


def _key(id: str) -> int:
    return int.from_bytes(digest(id)[:8], "little")
