"""Parts: formats that are several files of so many rows each; only the last has fewer, and is written again."""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from pathlib import Path

from caption.errors import OutputError
from caption.outputs.committed import Row
from caption.outputs.export import ExportOptions
from caption.outputs.ledger import Ledger, Position, Written
from caption.outputs.note import Note

_READ = 1 << 20


class Parts(ABC):
    """Keeps the rows of one part, writes it under another name and renames it; the cursor stands between parts."""

    pattern: str  # of the names
    rows_a_part: int

    def __init__(self, options: ExportOptions, ledger: Ledger):
        self.options, self._ledger = options, ledger
        self._size = options.shard_size or self.rows_a_part
        self._waiting: list[Row] = []
        self._number = ledger.get("part", 0)
        self._begin = ledger.position
        self.missing = Note("pictures can't be read and are left out")
        self.notes = [self.missing]
        options.target.mkdir(parents=True, exist_ok=True)

    def restart(self) -> None:
        self._waiting.clear()
        self._number, self._begin = 0, Position()
        self._ledger.note(Position(), (), part=0)

    def write(self, rows: list[Row], end: Position) -> None:
        self._waiting += rows
        while len(self._waiting) >= self._size:
            part, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            written = self._write_part(part)
            self._number, self._begin = self._number + 1, part[-1].end
            self._ledger.note(self._begin, [written], part=self._number)

    def finish(self) -> None:
        """Writes the last part, and takes away those of before that there are no rows for now."""
        if self._waiting:
            self._ledger.note(self._begin, [self._write_part(self._waiting)])
        gone = self._ledger.left_over()
        if not self._waiting and (last := self._ledger.file(str(self._path()))):
            gone.append(last)
        for file in gone:
            if os.path.exists(file.path) and _crc32(Path(file.path)) == file.crc32:
                os.remove(file.path)
        self._ledger.forget(file.path for file in gone)

    def _path(self) -> Path:
        return self.options.target / self.pattern.format(self._number)

    def _write_part(self, rows: list[Row]) -> Written:
        path = self._path()
        known = self._ledger.file(str(path))
        partial = path.with_name(f".{path.name}.partial")
        self.write_file(partial, rows)
        crc = _crc32(partial)
        if path.exists() and not self.options.overwrite:
            there = _crc32(path)
            if there != crc and (known is None or there != known.crc32):
                partial.unlink()
                raise OutputError(
                    f"{path} is there, and is not as an export wrote it",
                    "move it away, choose another --target, or say --overwrite",
                )
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        return Written(str(path), "", crc)

    @abstractmethod
    def write_file(self, path: Path, rows: list[Row]) -> None: ...


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while data := file.read(_READ):
            crc = zlib.crc32(data, crc)
    return crc
