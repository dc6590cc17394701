"""Ledger: what an export has written and how far it has read; a small SQLite file of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from caption.errors import Busy

try:
    import fcntl
except ImportError:  # Windows: two exports of one kind at once are then the user's own care
    fcntl = None

_TABLES = """
create table if not exists state (name text primary key, value);
create table if not exists files (path blob primary key, image text, crc32 integer, round integer) without rowid;
"""


class Position(NamedTuple):
    """How far into ``captions.jsonl``: bytes, and the CRC-32 of all of them, by which a changed file is noticed."""

    bytes: int = 0
    crc32: int = 0


class Written(NamedTuple):
    """A file that this export wrote.

    Attributes:
        path: of the file.
        image: whose file it is.
        crc32: of its content.
    """

    path: str
    image: str
    crc32: int


class Ledger:
    """Opened by one process at a time.

    Args:
        patience: seconds to wait for another export of this kind: that of a run which was killed writes to its end.

    Raises:
        Busy: another export of this kind is at work.
        OSError: the folder can't be written to.
    """

    def __init__(self, path: Path, patience: float = 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_suffix(".lock").open("w")
        if fcntl:
            self._take_lock(path, time.monotonic() + patience)
        self._base = sqlite3.connect(f"{path.absolute().as_uri()}?nolock=1", uri=True, isolation_level=None)
        self._base.executescript(_TABLES)

    def _take_lock(self, path: Path, deadline: float) -> None:
        while True:
            try:
                return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise Busy(f"another export is writing by {path}", "wait until it has ended") from error
                time.sleep(0.1)
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    return  # a file system without locks
                raise

    def get(self, name: str, default=None):
        found = self._base.execute("select value from state where name = ?", (name,)).fetchone()
        return found[0] if found else default

    @property
    def position(self) -> Position:
        return Position(self.get("bytes", 0), self.get("crc32", 0))

    @property
    def round(self) -> int:
        """Counts how often the export began from the first row."""
        return self.get("round", 0)

    def begin_again(self) -> None:
        """The next rows are read from the first on; what was written is still known."""
        self.note(Position(), (), round=self.round + 1)

    def note(self, position: Position, files: Iterable[Written], **state: object) -> None:
        """In one transaction: all up to here is written, in these files."""
        values = {"bytes": position.bytes, "crc32": position.crc32, **state}
        with contextlib.closing(self._base.cursor()) as cursor:
            cursor.execute("begin")
            cursor.executemany("replace into state values (?, ?)", values.items())
            now = state.get("round", self.round)
            rows = ((os.fsencode(file.path), file.image, file.crc32, now) for file in files)
            cursor.executemany("replace into files values (?, ?, ?, ?)", rows)
            cursor.execute("commit")

    def file(self, path: str) -> Written | None:
        key = os.fsencode(path)  # names need not be valid text
        found = self._base.execute("select image, crc32 from files where path = ?", (key,)).fetchone()
        return Written(path, *found) if found else None

    def left_over(self) -> list[Written]:
        """Files of earlier rounds that this one did not write again."""
        rows = self._base.execute("select path, image, crc32 from files where round < ?", (self.round,))
        return [Written(os.fsdecode(path), image, crc32) for path, image, crc32 in rows]

    def this_round(self, path: str) -> bool:
        key = (os.fsencode(path), self.round)
        return self._base.execute("select 1 from files where path = ? and round = ?", key).fetchone() is not None

    def forget(self, paths: Iterable[str]) -> None:
        self._base.executemany("delete from files where path = ?", ((os.fsencode(path),) for path in paths))

    def close(self) -> None:
        self._base.close()
        self._lock.close()
