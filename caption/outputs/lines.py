"""Lines: formats that are one file, a row a line: jsonl, csv, and the metadata.jsonl of an imagefolder."""

from __future__ import annotations

import csv
import io
import os
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

import orjson

from caption.checks import no_utf_8
from caption.errors import ItemError, OutputError
from caption.outputs.archived import ending
from caption.outputs.committed import Row
from caption.outputs.export import ExportOptions
from caption.outputs.flat import COLUMNS, flat_row
from caption.outputs.ledger import Ledger, Position
from caption.outputs.note import Note
from caption.outputs.pictures import link_or_copy, picture_path, relative, write_new
from caption.sources.folder import as_id, shown

_READ = 1 << 20


class Lines(ABC):
    """Appends to one file. What stands there must be what this export wrote, else it is somebody else's."""

    name: str

    def __init__(self, options: ExportOptions, ledger: Ledger):
        self.options, self._ledger = options, ledger
        self.path = self._path(options)
        self._outside = Note(f"pictures are no files in {options.input} and are left out")
        self._unread = Note("pictures can't be linked or read, or another file has their place, and are left out")
        self.notes = [self._outside, self._unread]
        self._size, self._crc = ledger.get("size", 0), ledger.get("file_crc32", 0)
        self._file = self._open()

    def _path(self, options: ExportOptions) -> Path:
        return options.target if options.target.suffix else options.target / self.name

    def _open(self):
        path = self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not self.options.overwrite and not self._is_ours():
            raise OutputError(
                f"{path} is there, and is not as an export wrote it",
                "move it away, choose another --target, or say --overwrite",
            )
        if not self._is_ours():
            self._begin_file()
        file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._cut(file)
        return file

    def _is_ours(self) -> bool:
        """What a crash has left behind the part that is noted counts as ours, and is cut."""
        if self._ledger.get("path") != shown(self.path) or not self.path.exists():
            return False
        crc, left = 0, self._size
        with self.path.open("rb") as file:
            while left and (data := file.read(min(left, _READ))):
                crc, left = zlib.crc32(data, crc), left - len(data)
        return not left and crc == self._crc

    def _begin_file(self) -> None:
        self._size = self._crc = 0
        self._ledger.note(Position(), (), size=0, file_crc32=0, path=shown(self.path))

    def _cut(self, file) -> None:
        file.truncate(self._size)
        file.seek(self._size)
        if not self._size and (head := self.head()):
            self._append(file, head)

    def _append(self, file, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        self._size, self._crc = self._size + len(data), zlib.crc32(data, self._crc)

    def restart(self) -> None:
        self._begin_file()
        self._cut(self._file)

    def write(self, rows: list[Row], end: Position) -> None:
        self._append(self._file, b"".join(self.line(row) for row in rows))
        os.fsync(self._file.fileno())
        self._ledger.note(end, (), size=self._size, file_crc32=self._crc)

    def finish(self) -> None:
        self._file.close()

    def head(self) -> bytes:
        return b""

    @abstractmethod
    def line(self, row: Row) -> bytes: ...


class Jsonl(Lines):
    name = "captions.jsonl"

    def line(self, row):
        return orjson.dumps(row.data) + b"\n"


class Csv(Lines):
    """Flat rows."""

    name = "captions.csv"

    def head(self):
        return _csv((*COLUMNS, *self.options.added))

    def line(self, row):
        return _csv(flat_row(row.data, self.options.added).values())


def _csv(cells) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


class ImageFolder(Lines):
    """``metadata.jsonl`` beside the pictures, or in a folder of its own with links to them."""

    name = "metadata.jsonl"

    def _path(self, options):
        return (options.input if options.beside else options.target) / self.name

    def line(self, row):
        name, origin = row.data["image"], self.options.origin(row)
        source = picture_path(origin.input, name)
        image = self._inside(source) if self.options.beside else relative(name)
        if image is None:
            self._outside.add(name)
            return b""
        if not self.options.beside:
            try:
                if source.is_file():
                    link_or_copy(source, self.path.parent / image)
                else:
                    content = origin.pictures.read(row.data)
                    if image.suffix.lower() != (format := ending(str(image), content)):
                        image = image.with_name(image.name + format)
                    write_new(self.path.parent / image, content)
            except (OSError, ItemError):
                self._unread.add(name)
                return b""
        return orjson.dumps({"file_name": str(image), self.options.column: row.data["caption"]}) + b"\n"

    def _inside(self, source: Path) -> PurePosixPath | None:
        """The path of a picture below the input; None if it is no file there."""
        if not (source.is_file() and source.is_relative_to(self.options.input)):
            return None
        name = source.relative_to(self.options.input).as_posix()
        return relative(as_id(name) if no_utf_8(name) else name)
