"""ManifestSource: a list of paths, JSONL, CSV or TSV that names the pictures, and what each row says of its own."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator

from caption.errors import BadRow
from caption.sources.columns import choose_columns, id_of, picture_of
from caption.sources.folder import as_id, shown
from caption.sources.picture import Picture
from caption.sources.text import Row, count_lines, json_lines, path_lines, table_rows

READERS: dict[str, Callable[[str], Iterator[Row]]] = {
    "list": path_lines,
    "jsonl": json_lines,
    "csv": functools.partial(table_rows, delimiter=None),
    "tsv": functools.partial(table_rows, delimiter="\t"),
}


class ManifestSource:
    """Args:
    path: the file.
    kind: one of ``READERS``.
    root: relative paths count from here; None is the folder of the file.
    image_column, id_column: as the user named them, or None.
    name: what the user calls the file.

    Raises:
        InputError: it can't be read, or has no column with the pictures.
    """

    takes = "it takes a row an image"
    unique = False
    ignored = 0
    ignored_first = ()

    def __init__(
        self, path: str, kind: str, root: str | None, image_column: str | None, id_column: str | None, name: str = ""
    ):
        self.described = f"{kind} manifest {name or shown(path)}" if kind != "list" else f"list {name or shown(path)}"
        self.warnings: list[str] = []
        self._path, self._kind, self._read = path, kind, READERS[kind]
        self._root = root if root is not None else os.path.dirname(path)
        self._name = as_id(name or os.path.basename(path))
        self._image, self._id = image_column, id_column
        if kind != "list":
            self._choose_columns()

    def _choose_columns(self) -> None:
        """By the first row that is whole; where there is none, each row is a failed one and needs no column."""
        for _, row, _ in self._read(self._path):
            if row is not None:
                self._image, self._id = choose_columns(list(row), self._image, self._id, self.described)
                return

    def size(self) -> int | None:
        return count_lines(self._path, self._kind) if self._kind in ("list", "jsonl") else None

    def pictures(self) -> Iterator[Picture]:
        self.warnings.clear()
        without_id = False
        for number, row, problem in self._read(self._path):
            place = f"{self._name}:{number}"
            if row is None:
                yield Picture(place, "", "", None, (BadRow.__name__, problem))
            elif isinstance(row, str):
                yield picture_of(row, self._root, place, None, None)
            else:
                value = row.pop(self._image, None)
                id = id_of(row.pop(self._id, None)) if self._id else None
                if self._id and id is None and not without_id:
                    without_id = True
                    self.warnings.append(f"{place} has no {self._id}: the id of such rows is their picture's path")
                yield picture_of(value, self._root, place, id, row or None)
