"""RowCounts: how many rows a row file has, and how often each flag or error, read on from where the last look ended."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from caption.outputs.rows import CAPTIONS, FAILED
from caption.precision import AFTER_FP16

_CHUNK = 1 << 22
# A quote inside a string of JSON has a backslash before it, so neither can stand in a caption, a name or a message.
_FLAGS = b'"flags":["', b'"]'
_ERROR = b'"error":"', b'"'


class RowCounts:
    """Attributes:
    rows: whole rows of each file.
    flags, errors: by name.
    flagged: captions that the guard doubts.
    """

    def __init__(self, out: Path):
        self._out = out
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.rows = {CAPTIONS: 0, FAILED: 0}
        self.flags, self.errors, self.flagged = Counter(), Counter(), 0
        self._read = {CAPTIONS: (0, 0), FAILED: (0, 0)}  # inode and bytes

    def look(self) -> None:
        """Counts what has come since. A file that was written anew is counted from its beginning.

        Raises OSError: a file is there and can't be read.
        """
        for name, (inode, size) in self._read.items():
            path = self._out / name
            status = path.stat() if path.exists() else None
            if inode and (status is None or status.st_ino != inode or status.st_size < size):
                self._begin_anew()
                break
        for name in self.rows:
            if (self._out / name).exists():
                self._read_on(name)

    def _read_on(self, name: str) -> None:
        with (self._out / name).open("rb") as file:
            inode, start = os.fstat(file.fileno()).st_ino, self._read[name][1]
            file.seek(start)
            rest = b""
            while chunk := file.read(_CHUNK):
                whole, _, rest = (rest + chunk).rpartition(b"\n")
                if whole:
                    self._count(name, whole + b"\n")
                    start += len(whole) + 1
        self._read[name] = inode, start

    def _count(self, name: str, lines: bytes) -> None:
        self.rows[name] += lines.count(b"\n")
        if name == FAILED:
            self.errors.update(found.decode() for found in _between(lines, *_ERROR))
            return
        for found in _between(lines, *_FLAGS):
            flags = found.decode().split('","')
            self.flags.update(flags)
            self.flagged += set(flags) != {AFTER_FP16}


def _between(text: bytes, begin: bytes, end: bytes) -> Iterator[bytes]:
    """What stands between each ``begin`` and the next ``end``; several times faster than a regular expression."""
    place = text.find(begin)
    while place >= 0:
        place += len(begin)
        stop = text.find(end, place)
        yield text[place:stop]
        place = text.find(begin, stop)
