"""Metadata: what files beside the pictures say of them: an imagefolder's metadata, and JSON files of the same names."""

from __future__ import annotations

import os
import posixpath
import sqlite3
from collections.abc import Iterator

import orjson

from caption.errors import BadRow, InputError
from caption.sources.folder import as_id, as_name, shown
from caption.sources.parquet import import_pyarrow
from caption.sources.text import json_lines, table_rows

_COLUMN = "file_name"


class Metadata:
    """The rows of all metadata files of one walk by the picture that they name; on disk, because there may be millions.

    Attributes:
        warnings: sentences about files and rows that say nothing.
    """

    def __init__(self, warnings: list[str]):
        self.warnings = warnings
        self._table: sqlite3.Connection | None = None
        self._open = 0  # rows whose picture was not seen yet

    def add(self, path: str, prefix: str) -> None:
        """A metadata file; ``prefix`` is the id of its folder with a slash, or empty."""
        if self._table is None:
            self._table = sqlite3.connect("")  # a file that has no name and goes with the connection
            self._table.execute("CREATE TABLE rows (id TEXT PRIMARY KEY, fields BLOB)")
        before = self._table.total_changes
        try:
            self._table.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", self._rows(path, prefix))
        except InputError as error:
            self.warnings.append(str(error))
        self._open += self._table.total_changes - before

    def _rows(self, path: str, prefix: str) -> Iterator[tuple[str, bytes]]:
        for number, row, problem in _read(path):
            if row is None:
                self.warnings.append(f"{shown(path)}, line {number}: {problem}")
                continue
            name = row.pop(_COLUMN, None)
            if not isinstance(name, str) or not name:
                raise InputError(f"{shown(path)}, line {number} has no {_COLUMN}", "its pictures have no fields")
            try:
                yield prefix + as_id(posixpath.normpath(name)), orjson.dumps(row, default=str)
            except TypeError as error:
                self.warnings.append(f"{shown(path)}, line {number}: it can't be kept: {error}")

    def of(self, id: str) -> dict | None:
        if self._table is None:
            return None
        found = self._table.execute("SELECT fields FROM rows WHERE id = ?", (id,)).fetchone()
        if found is None:
            return None
        self._open -= 1
        return orjson.loads(found[0]) or None

    def end(self) -> None:
        """The walk is over."""
        if self._open > 0:
            self.warnings.append(f"{self._open:,} rows of metadata name no picture of the folder")


def _read(path: str) -> Iterator[tuple[int, dict | None, str]]:
    if path.endswith(".jsonl"):
        yield from json_lines(path)
    elif path.endswith(".csv"):
        yield from table_rows(path, None)
    else:
        try:
            batches = import_pyarrow("Parquet").parquet.ParquetFile(path).iter_batches(2048)
            number = 0
            for batch in batches:
                for row in batch.to_pylist():
                    number += 1
                    yield number, row, ""
        except (OSError, ValueError) as error:
            raise InputError(f"can't read {shown(path)}: {error}", "its pictures have no fields") from error


class Details:
    """JSON files of the pictures' names in a folder of their own: the fields of ``a/b.jpg`` stand in ``a/b.json``."""

    def __init__(self, folder: str):
        if not os.path.isdir(folder):
            raise InputError(f"there is no folder {shown(folder)}", "check --details")
        self._folder = folder

    def of(self, id: str) -> tuple[dict | None, tuple[str, str] | None]:
        """The fields of a picture, None if it has no file; or what is wrong with its file."""
        path = os.path.join(self._folder, as_name(posixpath.splitext(id)[0]) + ".json")
        return read_json(path) if os.path.lexists(path) else (None, None)


def read_json(path: str) -> tuple[dict | None, tuple[str, str] | None]:
    """The object in a JSON file, or the class and message of what is wrong with it."""
    try:
        with open(path, "rb") as file:
            content = orjson.loads(file.read().removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        return None, (BadRow.__name__, f"{shown(os.path.basename(path))} can't be read: {error.strerror}")
    except ValueError as error:
        return None, (BadRow.__name__, f"{shown(os.path.basename(path))} is no JSON: {error}")
    if not isinstance(content, dict):
        return None, (BadRow.__name__, f"{shown(os.path.basename(path))} is no JSON object")
    return content, None
