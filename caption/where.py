"""Where: the places of pictures that are no files of their own, and how a loader gets their bytes.

A file is a path, a string. The others name a stretch of a file, a cell of a table or a stretch of shared memory, so
that no picture goes in a message. Each has ``read()``, which raises ItemError.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from caption.errors import EmptyFile, NotAFile, NotAnImage, TooLarge, Truncated, Unreadable, Vanished
from caption.urls import Url

_LARGEST = 1 << 30  # bytes of one picture that is read as a whole
_AT_ONCE = 16  # cells of a Parquet column that are held at once


class Part(NamedTuple):
    """A stretch of a file: a member of a tar."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        if not self.size:
            raise EmptyFile("the member has zero bytes")
        if self.size > _LARGEST:
            raise TooLarge(f"the member has {self.size:,} bytes")
        with _readable(), open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise Truncated("the archive ends before the picture does")
        return data


class ParquetCell(NamedTuple):
    """A cell of a Parquet file: bytes, or a struct with a field ``bytes``.

    Attributes:
        group: row group, counted from 0.
        row: row in that group, counted from 0.
    """

    path: str
    group: int
    row: int
    column: str

    def read(self) -> bytes:
        with _readable():
            reader = _parquet_column(self.path, self.group, self.column)
            if self.row < reader.first:  # an earlier picture is tried again
                _parquet_column.cache_clear()
                reader = _parquet_column(self.path, self.group, self.column)
            return _bytes_of(reader.at(self.row), self.path)


class ArrowCell(NamedTuple):
    """A cell of an Arrow stream file, as ``datasets`` saves them; ``batch`` and ``row`` are counted from 0."""

    path: str
    batch: int
    row: int
    column: str

    def read(self) -> bytes:
        with _readable():
            batches = _arrow_batches(self.path)
            return _bytes_of(batches[self.batch].column(self.column)[self.row].as_py(), self.path)


class Shared(NamedTuple):
    """Bytes that a caller of CaptionPool has put into memory which all processes of the pool share.

    Attributes:
        descriptor: of that memory, inherited under this number by workers and their loaders.
        offset, size: in bytes.
        sides: width and height, if the bytes are the pixels of an upright RGB picture; None: a picture file.
    """

    descriptor: int
    offset: int
    size: int
    sides: tuple[int, int] | None = None

    def read(self) -> bytes:
        if not self.size:
            raise EmptyFile("there are zero bytes")
        parts, end = [], self.offset + self.size
        with _readable():
            while (offset := end - self.size + sum(map(len, parts))) < end:
                parts.append(os.pread(self.descriptor, end - offset, offset))
                if not parts[-1]:
                    raise Truncated("the shared memory ends before the picture does")
        return b"".join(parts)


class _readable:
    """The system's and the library's errors become the item's."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise Vanished("it is gone, or the file that holds it is") from error
        if isinstance(error, OSError) and error.errno:
            raise Unreadable(f"it can't be read: {error.strerror}") from error
        if isinstance(error, OSError | ValueError | LookupError):  # pyarrow's own are ValueError or OSError
            raise Truncated(f"the file that holds it is broken: {error}") from error


def _bytes_of(value, table: str) -> bytes:
    """Of a cell: its own, or those of the file that it names, as ``datasets`` writes pictures that it did not embed."""
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        if content is None and isinstance(path, str) and path:
            return _file_bytes(os.path.join(os.path.dirname(table), path))
        value = content
    if value is None or value == b"":
        raise EmptyFile("its cell is empty")
    if not isinstance(value, bytes):
        raise NotAnImage(f"its cell holds no bytes but {type(value).__name__}")
    return value


def _file_bytes(path: str) -> bytes:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise NotAFile("it is a pipe, a socket, a device or a folder")
    if not status.st_size:
        raise EmptyFile("the file has zero bytes")
    if status.st_size > _LARGEST:
        raise TooLarge(f"the file has {status.st_size:,} bytes")
    with open(path, "rb") as file:
        return file.read()


class _Column:
    """One column of a row group, read forwards, a few cells at a time."""

    def __init__(self, batches: Iterator):
        self._batches, self._values = batches, []
        self.first = 0  # the row that ``_values`` begins with

    def at(self, row: int):
        while row >= self.first + len(self._values):
            self.first += len(self._values)
            self._values = next(self._batches).column(0).to_pylist()
        return self._values[row - self.first]


@functools.lru_cache(maxsize=1)
def _parquet_column(path: str, group: int, column: str) -> _Column:
    import pyarrow.parquet as parquet

    batches = parquet.ParquetFile(path).iter_batches(_AT_ONCE, row_groups=[group], columns=[column])
    return _Column(iter(batches))


@functools.lru_cache(maxsize=2)
def _arrow_batches(path: str) -> list:
    """The record batches of a file; memory-mapped, so only what is looked at is read."""
    import pyarrow as pa

    os.stat(path)
    return list(pa.ipc.open_stream(pa.memory_map(path)))


Where = str | Part | ParquetCell | ArrowCell | Shared | Url
