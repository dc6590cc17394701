"""Sidecars: a file an image, beside it or in a mirror folder: .txt or .caption with its words, .json with its row."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import orjson

from caption.outputs.committed import Row
from caption.outputs.export import ExportOptions
from caption.outputs.ledger import Ledger, Position, Written
from caption.outputs.note import Note
from caption.outputs.pictures import picture_path, relative


class Sidecars:
    """Writes each file whole, under another name first. A file that is there and is not this export's own, or was
    changed since, is left as it is."""

    ending: str

    def __init__(self, options: ExportOptions, ledger: Ledger):
        self._options, self._ledger = options, ledger
        self._twins = Note("pictures share their stem with another one, whose caption the file holds")
        self._foreign = Note(
            "files are not this export's own, or were changed since, and stay; --overwrite replaces them"
        )
        self._outside = Note("pictures lie outside of the input and have no place in the folder")
        self._packed = Note("pictures are no files of their own, so nothing can stand beside them")
        self.notes = [self._twins, self._foreign, self._outside, self._packed]
        self._folders: set[Path] = set()

    def restart(self) -> None:
        pass

    def write(self, rows: list[Row], end: Position) -> None:
        files: dict[str, Written] = {}
        for row in rows:
            path = self._path(row)
            if path is None:
                (self._packed if self._options.beside else self._outside).add(row.data["image"])
                continue
            content, image = self.content(row.data), row.data["image"]
            known = files.get(str(path)) or self._ledger.file(str(path))
            if known and known.image != image and (str(path) in files or self._ledger.this_round(str(path))):
                self._twins.add(image)
            elif self._put(path, content, known):
                files[str(path)] = Written(str(path), image, zlib.crc32(content))
            else:
                self._foreign.add(str(path))
        if hasattr(os, "sync"):
            os.sync()  # once for all: the note must not outlive the files in a power cut
        self._ledger.note(end, files.values())

    def _path(self, row: Row) -> Path | None:
        name, image = self._options.item_name(row), row.data["image"]
        ending = f".{name}{self.ending}" if name else self.ending
        if self._options.beside:
            origin = self._options.origin(row)
            try:
                picture = origin.pictures.place(row.data)
            except FileNotFoundError:  # it is gone
                picture = picture_path(origin.input, image)
            return Path(picture).with_name(Path(picture).stem + ending) if isinstance(picture, str | Path) else None
        place = relative(image)
        return self._options.target / place.parent / (place.stem + ending) if place else None

    def _put(self, path: Path, content: bytes, known: Written | None) -> bool:
        """False if another's file is there."""
        try:
            there = path.read_bytes()
        except FileNotFoundError:
            there = None
        if there == content:
            return True
        ours = known is not None and there is not None and zlib.crc32(there) == known.crc32
        if there is not None and not ours and not self._options.overwrite:
            return False
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(content)
        os.replace(partial, path)
        return True

    def finish(self) -> None:
        """Takes away what it wrote for rows that are gone, unless it was changed since."""
        gone = self._ledger.left_over()
        for file in gone:
            try:
                if zlib.crc32(Path(file.path).read_bytes()) == file.crc32:
                    os.remove(file.path)
            except FileNotFoundError:
                continue
        self._ledger.forget(file.path for file in gone)

    def content(self, row: dict[str, Any]) -> bytes:
        return row["caption"].encode()


class Txt(Sidecars):
    ending = ".txt"


class Caption(Sidecars):
    ending = ".caption"


class Json(Sidecars):
    ending = ".json"

    def content(self, row):
        return orjson.dumps(row, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
