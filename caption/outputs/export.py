"""Export: committed rows into another format, each once, with a cursor of its own; idempotent after any crash."""

from __future__ import annotations

import functools
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

import checkpoint
from caption.outputs.archived import Archived
from caption.outputs.ledger import Ledger, Position
from caption.outputs.rows import CAPTIONS

BLOCK = 1000  # rows between two steps of the cursor
_READ = 1 << 20
_NAMED = 5  # files named in a note


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and where to.

    Attributes:
        out: output folder of the run.
        input: folder from which the rows' images count.
        target: folder or file to write, as the format wants it.
        beside: sidecars and metadata stand by the pictures, not in ``target``.
        column: name of the caption's column (imagefolder).
        shard_size: rows of one file, of formats in several.
        overwrite: also files that this export did not write.
        without: captions with one of these flags are left out.
    """

    out: Path
    input: Path
    target: Path
    beside: bool = False
    column: str = "text"
    shard_size: int | None = None
    overwrite: bool = False
    without: frozenset[str] = field(default_factory=frozenset)

    @functools.cached_property
    def pictures(self) -> Archived:
        """Where the pictures' bytes come from."""
        return Archived(self.out, self.input)


class Row(NamedTuple):
    """A row of ``captions.jsonl``, and where it ends."""

    end: Position
    data: dict[str, Any]


class Note:
    """What could not be written, counted, with the first names.

    Args:
        what: follows the count.
    """

    def __init__(self, what: str):
        self._what = what
        self._names: list[str] = []
        self.count = 0

    def add(self, name: str) -> None:
        self.count += 1
        if len(self._names) < _NAMED:
            self._names.append(name)

    def __str__(self) -> str:
        rest = ", …" if self.count > len(self._names) else ""
        return f"{self.count:,} {self._what}: {', '.join(self._names)}{rest}"


class Format(Protocol):
    """Writes rows. Made with (ExportOptions, Ledger); raises OutputError where a file that is not its own stands.

    Attributes:
        notes: what could not be written; those that count 0 say nothing.
    """

    notes: list[Note]

    def restart(self) -> None:
        """All rows come again, from the first on."""

    def write(self, rows: list[Row], end: Position) -> None:
        """Writes the rows up to ``end``, and notes in the ledger from where to go on if killed now."""

    def finish(self) -> None:
        """All rows that there are now have been given."""


class Export:
    """Args:
    make: the format's class.
    patience: seconds to wait for another export of this kind.
    """

    def __init__(
        self,
        options: ExportOptions,
        name: str,
        make: Callable[[ExportOptions, Ledger], Format],
        patience: float = 0,
    ):
        self._options = options
        self._path = options.out / CAPTIONS
        self._ledger = Ledger(options.out / "exports" / f"{name}.sqlite", patience)
        settings = orjson.dumps([options.column, options.shard_size, sorted(options.without)]).decode()
        changed = self._ledger.get("settings") not in (None, settings)
        self.format = make(options, self._ledger)
        if changed:
            self._restart()
        self._ledger.note(self._ledger.position, (), settings=settings)
        self._inode: int | None = None
        self._at = self._ledger.position
        self.written = 0

    def run(self) -> int:
        """Writes what is committed now and was not written; returns how many rows it read."""
        try:
            end = checkpoint.read(self._options.out).committed[CAPTIONS].bytes
        except (FileNotFoundError, KeyError):  # of a run that has only begun
            return 0
        if not self._path.exists():
            return 0
        read = 0
        with self._path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:  # the first pass, or rows were withdrawn and the file is another
                self._inode, self._at = inode, self._ledger.position
                if _crc32(file, self._at.bytes) != self._at.crc32 or self._at.bytes > end:
                    self._restart()
                    self._at = Position()
            file.seek(self._at.bytes)
            while block := list(itertools.islice(self._rows(file, end), BLOCK)):
                read += len(block)
                self._at = block[-1].end
                kept = [row for row in block if not self._options.without.intersection(row.data["flags"])]
                self.written += len(kept)
                self.format.write(kept, self._at)
        return read

    def _restart(self) -> None:
        self._ledger.begin_again()
        self.format.restart()
        self.written = 0

    def _rows(self, file, end: int) -> Iterator[Row]:
        at = self._at
        while at.bytes < end and (line := file.readline()):
            at = Position(at.bytes + len(line), zlib.crc32(line, at.crc32))
            yield Row(at, orjson.loads(line))

    def finish(self) -> None:
        self.format.finish()

    def close(self) -> None:
        self._ledger.close()


def _crc32(file, length: int) -> int:
    file.seek(0)
    crc, left = 0, length
    while left and (data := file.read(min(left, _READ))):
        crc, left = zlib.crc32(data, crc), left - len(data)
    return crc if not left else -1
