"""Committed: the captions of one or several output folders, one after the other, up to what is committed now."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

import checkpoint
from caption.outputs.ledger import Position
from caption.outputs.rows import CAPTIONS

_READ = 1 << 20


class Row(NamedTuple):
    """A row of ``captions.jsonl``.

    Attributes:
        end: where it ends, counted through all folders.
        folder: which of the folders it is from.
    """

    end: Position
    folder: int
    data: dict[str, Any]


class Committed:
    """Holds the files open, until ``close``. A folder whose run has only begun has no rows yet.

    Attributes:
        bytes: of all rows.
        files: what tells whether they are the same files as before.
        state: what tells whether they hold the same rows.
    """

    def __init__(self, outs: Sequence[Path]):
        self._parts = []
        for folder, out in enumerate(outs):
            try:
                extent = checkpoint.read(out).committed[CAPTIONS]
                file = (out / CAPTIONS).open("rb", buffering=_READ)
            except (FileNotFoundError, KeyError):
                continue
            self._parts.append((folder, file, extent))
        self.bytes = sum(extent.bytes for _, _, extent in self._parts)
        self.files = tuple(os.fstat(file.fileno()).st_ino for _, file, _ in self._parts)
        self.state = [(folder, extent.bytes, extent.crc32) for folder, _, extent in self._parts]

    def rows(self, begin: Position) -> Iterator[Row]:
        """The rows after ``begin``."""
        at, before = begin, 0
        for folder, file, extent in self._parts:
            end = before + extent.bytes
            if at.bytes < end:
                file.seek(at.bytes - before)
                while at.bytes < end and (line := file.readline()):
                    at = Position(at.bytes + len(line), zlib.crc32(line, at.crc32))
                    yield Row(at, folder, orjson.loads(line))
            before = end

    def has(self, position: Position) -> bool:
        """Whether the rows up to there are those that were there when it was noted."""
        crc, left = 0, position.bytes
        if left > self.bytes:
            return False
        for _, file, extent in self._parts:
            file.seek(0)
            rest = min(left, extent.bytes)
            left -= rest
            while rest and (data := file.read(min(rest, _READ))):
                crc, rest = zlib.crc32(data, crc), rest - len(data)
            if rest:
                return False
        return crc == position.crc32

    def close(self) -> None:
        for _, file, _ in self._parts:
            file.close()
