"""Finding the row or the record of the index that is not what was committed."""

import contextlib
import errno
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import ids, index, rows
from .errors import Damaged
from .paths import Paths
from .state import Extent, State


class Entry(NamedTuple):
    """Record `position` of the index, and the bytes at `offset` of the row file `file` that it describes."""

    position: int
    file: str | None  # None: the record names a row file that there is not
    offset: int
    line: bytes
    digest: bytes
    size: int
    crc32: int

    @property
    def intact(self) -> bool:
        return self.file is not None and len(self.line) == self.size and zlib.crc32(self.line) == self.crc32

    @property
    def named(self) -> bool:
        """Whether the row has the id that the index says."""
        id = rows.identify(self.line)
        return id is not None and ids.digest(id) == self.digest


def walk(paths: Paths, state: State) -> Iterator[Entry]:
    """Every committed row by the index, one pass through all files."""
    names, offsets = list(state.files), [0] * len(state.files)
    with contextlib.ExitStack() as stack:
        found = [(paths.rows(name), state.files[name]) for name in names]
        handles = [  # of a missing file nothing may be committed: it is an empty one
            stack.enter_context(path.open("rb") if extent.bytes or path.exists() else io.BytesIO())
            for path, extent in found
        ]
        position = 0
        for chunk in index.records(paths.index, state.index.rows, at_once=1 << 16):
            columns = chunk["first"], chunk["second"], index.number(chunk), index.size(chunk), chunk["crc32"]
            for first, second, number, size, crc in zip(*(column.tolist() for column in columns)):
                digest = first.to_bytes(8, "little") + second.to_bytes(8, "little")
                if number < len(names):
                    line = handles[number].read(size)
                    yield Entry(position, names[number], offsets[number], line, digest, size, crc)
                    offsets[number] += size
                else:
                    yield Entry(position, None, 0, b"", digest, size, crc)
                position += 1


def check_sizes(paths: Paths, state: State) -> None:
    """Raises `Damaged` if a file is missing or shorter than what was committed of it; OSError if it is no file."""
    committed = [(paths.rows(name), extent) for name, extent in state.files.items()]
    for path, extent in [*committed, (paths.index, state.index)]:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if path.exists():
            size = path.stat().st_size
            if size < extent.bytes:
                raise Damaged(path, size, f"the file ends here, {extent.bytes:,} bytes were committed")
        elif extent.bytes:
            raise Damaged(path, 0, f"the file is missing, {extent.bytes:,} bytes were committed")


def locate(paths: Paths, state: State) -> Damaged:
    """The first damage inside committed lengths of which a checksum is known to be wrong."""
    if _checksum(paths.index, state.index) != state.index.crc32:
        for entry in walk(paths, state):
            if not (entry.intact and entry.named):
                where = entry.position * index.RECORD.itemsize
                return Damaged(paths.index, where, f"record {entry.position + 1:,} does not match its row")
        return Damaged(paths.index, 0, "its checksum is wrong")
    for entry in walk(paths, state):
        if not entry.intact:
            what = f"the row that starts here, of {len(entry.line):,} bytes, does not have its checksum"
            return Damaged(paths.rows(entry.file), entry.offset, what)
    wrong = next(name for name, extent in state.files.items() if _checksum(paths.rows(name), extent) != extent.crc32)
    return Damaged(paths.rows(wrong), 0, "its checksum is wrong")


def _checksum(path: Path, extent: Extent) -> int:
    return rows.checksum(path, extent.bytes)
