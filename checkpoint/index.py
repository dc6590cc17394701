"""`rows.idx`: one record of 24 bytes for each committed row, in the order of commits.

    0       8       16      20      24
    | BLAKE2b-128   | size  | crc32 |      little endian
      of the id       |       of the row with its newline
                      number of the row file in the upper 6 bits, bytes of the row with its newline in the lower 26
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import disk
from .errors import full
from .ids import IdSet
from .state import Extent

RECORD = np.dtype([("first", "<u8"), ("second", "<u8"), ("size", "<u4"), ("crc32", "<u4")])
SIZE_BITS = 26
CHUNK = 1 << 20  # records read at once: 24 MiB

_pack = struct.Struct("<16sII").pack


def pack(digest: bytes, number: int, line: bytes) -> bytes:
    """The record of the row `line`, with its newline, in row file `number`."""
    return _pack(digest, number << SIZE_BITS | len(line), zlib.crc32(line))


def records(path: Path, count: int, at_once: int = CHUNK) -> Iterator[np.ndarray]:
    """The first `count` records, or as many as there are, as arrays of dtype RECORD and at most `at_once` records.

    Of none, the file may be missing.
    """
    if not count:
        return
    with path.open("rb") as file:
        while count > 0 and (data := file.read(min(at_once, count) * RECORD.itemsize)):
            chunk = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
            count -= len(chunk)
            yield chunk


def number(chunk: np.ndarray) -> np.ndarray:
    """The row file of each record."""
    return chunk["size"] >> SIZE_BITS


def size(chunk: np.ndarray) -> np.ndarray:
    """The bytes of each row, newline included, int64."""
    return (chunk["size"] & ((1 << SIZE_BITS) - 1)).astype(np.int64)


def load(path: Path, count: int) -> tuple[IdSet, int]:
    """The ids of the first `count` records, and the checksum of these records."""
    first, second = np.empty(count, np.uint64), np.empty(count, np.uint64)
    crc = done = 0
    for chunk in records(path, count):
        first[done : done + len(chunk)], second[done : done + len(chunk)] = chunk["first"], chunk["second"]
        crc, done = zlib.crc32(chunk, crc), done + len(chunk)
    return IdSet(first[:done], second[:done]), crc


class Index:
    """The index open for appending; cuts what lies beyond the committed `extent` when opened."""

    def __init__(self, path: Path, extent: Extent):
        self.path, self.extent = path, extent
        self._fd = disk.open(path)
        disk.truncate(self._fd, extent.bytes)

    def append(self, packed: bytes) -> None:
        """Records of `pack`, one after the other; durable on return. Raises `Full`, OSError."""
        with full(len(packed), self.path):
            disk.write_all(self._fd, packed, self.extent.bytes)
            disk.sync(self._fd)
        self.extent = self.extent.plus(len(packed) // RECORD.itemsize, packed)

    def close(self) -> None:
        disk.close(self._fd)
