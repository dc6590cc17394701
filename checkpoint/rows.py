"""Row files: append-only lines, each a JSON object with a string `id`."""

import contextlib
import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import orjson

from . import disk
from .errors import Damaged, full
from .state import Extent

MAX_ROW = (1 << 26) - 1  # bytes of a row with its newline: what its field in the index can hold
CHUNK = 1 << 22  # bytes read at once
BATCH = 4096  # lines looked at together


def identify(line: bytes) -> str | None:
    """The id of a whole valid row, `line` with its newline; None for anything else."""
    if not (line.startswith(b"{") and line.endswith(b"}\n")) or len(line) > MAX_ROW:
        return None
    try:
        id = orjson.loads(line).get("id")
    except ValueError:
        return None
    return id if isinstance(id, str) else None


def lines(path: Path, start: int = 0) -> Iterator[bytes]:
    """Lines from byte `start` on, with their newlines; one that is longer than a row can be comes in pieces."""
    with path.open("rb") as file:
        file.seek(start)
        while line := file.readline(MAX_ROW + 1):
            yield line


def batches(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(itertools.islice(lines, BATCH)):
        yield batch


def checksum(path: Path, size: int) -> int:
    """crc32 of the first `size` bytes; of none, the file may be missing."""
    crc = 0
    if not size:
        return crc
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(CHUNK, size))):
            crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc


class RowFile:
    """A row file open for appending. `extent` is what is written, committed or not."""

    def __init__(self, path: Path, extent: Extent):
        self.path, self.extent = path, extent
        created = not path.exists()
        self._fd = disk.open(path)
        if created:
            disk.sync_folder(path.parent)

    def size(self) -> int:
        return self.path.stat().st_size

    def append(self, rows: list[bytes]) -> None:
        """Rows with their newlines, in one write: in the kernel on return, so a killed process loses none of them.

        Raises `Full`, OSError; whole rows of a write that failed half-way stay, to be adopted, a torn one is cut.
        `Damaged`, before anything is written, if the file was cut or grown by somebody else: a write at the old offset
        would give it its size back, with a hole where rows were.
        """
        if os.fstat(self._fd).st_size != self.extent.bytes:
            raise self._changed()
        data = b"".join(rows)
        try:
            disk.write_all(self._fd, data, self.extent.bytes)
        except OSError:
            written = self._drop_torn_row(data)
            with full(len(data) - written, self.path):
                raise
        self.extent = self.extent.plus(len(rows), data)

    def adopt(self, rows: list[bytes]) -> None:
        """Takes rows that already stand in the file next. Raises `Full`, OSError.

        They are written once more: after a failed fsync pages can look clean in memory that never reached the disk.
        """
        data = b"".join(rows)
        with full(len(data), self.path):
            disk.write_all(self._fd, data, self.extent.bytes)
        self.extent = self.extent.plus(len(rows), data)

    def cut(self) -> int:
        """Cuts what lies beyond the extent, durable on return; the number of bytes cut."""
        excess = self.size() - self.extent.bytes
        if excess:
            disk.truncate(self._fd, self.extent.bytes)
            disk.sync(self._fd)
        return excess

    def sync(self) -> None:
        """Raises `Damaged` if somebody else has changed, replaced or removed the file; `Full`, OSError."""
        try:
            same = os.path.samestat(os.fstat(self._fd), self.path.stat()) and self.size() == self.extent.bytes
        except FileNotFoundError:
            same = False
        if not same:
            raise self._changed()
        with full(self.extent.bytes, self.path):
            disk.sync(self._fd)

    def close(self) -> None:
        disk.close(self._fd)

    def _changed(self) -> Damaged:
        try:
            byte = min(self.size(), self.extent.bytes)
        except OSError:
            byte = 0
        return Damaged(self.path, byte, "it was changed or replaced by something else during the run")

    def _drop_torn_row(self, data: bytes) -> int:
        """After a failed write of `data`: how many of its bytes stand in the file, as whole rows only if possible."""
        written = os.fstat(self._fd).st_size - self.extent.bytes
        whole = data.rfind(b"\n", 0, max(written, 0)) + 1
        with contextlib.suppress(OSError):  # opening the record cuts it then
            disk.truncate(self._fd, self.extent.bytes + whole)
        return whole
