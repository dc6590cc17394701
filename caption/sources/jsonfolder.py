"""JsonFolderSource: a folder of JSON files, one an image, maybe with its details in a second one of the same names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from caption.errors import Vanished
from caption.image import ENDINGS
from caption.sources.columns import IMAGE_COLUMNS, id_of, picture_of
from caption.sources.folder import FolderSource, as_name, shown
from caption.sources.metadata import Details, read_json
from caption.sources.picture import Picture


class JsonFolderSource:
    """All ``.json`` files below ``folder``, sorted; each names its picture, or has the picture's name.

    The id is the path of the JSON file below the folder without its ending, or the field that ``id_column`` names.

    Args:
        root: where the pictures lie; None is the folder itself.
        image_column: the field that names the picture; None is the first of the usual ones, and where there is none,
            the file of the same name in ``root``.
        details: a folder of the same names whose fields are added.

    Raises:
        InputError: a folder can't be listed.
    """

    takes = "it takes JSON files"
    unique = False

    def __init__(
        self,
        folder: Path,
        output: Path,
        root: str | None,
        image_column: str | None,
        id_column: str | None,
        details: Details | None,
    ):
        self.described = f"folder of JSON files {shown(folder)}"
        self._files = FolderSource(folder, output, endings=(".json",))
        self._root = os.fspath(folder) if root is None else root
        self._image, self._id, self._details = image_column, id_column, details

    @property
    def ignored(self) -> int:
        return self._files.ignored

    @property
    def ignored_first(self) -> list[str]:
        return self._files.ignored_first

    @property
    def warnings(self) -> list[str]:
        return self._files.warnings

    def size(self) -> None:
        return None

    def pictures(self) -> Iterator[Picture]:
        for file in self._files.pictures():
            stem = file.id[: -len(".json")]
            fields, fault = read_json(file.where)
            details = None
            if self._details and not fault:
                details, fault = self._details.of(file.id)
            if fault:
                yield Picture(stem, stem, "", None, fault)
                continue
            yield self._picture(stem, {**(details or {}), **fields})

    def _picture(self, stem: str, fields: dict) -> Picture:
        id = id_of(fields.pop(self._id, None)) if self._id else None
        names = (self._image,) if self._image else IMAGE_COLUMNS
        column = next((name for name in names if isinstance(fields.get(name), str) and fields[name]), None)
        if column or self._image:
            return picture_of(fields.pop(column, None), self._root, stem, id or stem, fields or None)
        path = os.path.join(self._root, as_name(stem))
        for ending in ENDINGS:
            for one in (ending, ending.upper()):
                if os.path.lexists(path + one):
                    return Picture(id or stem, stem + one, path + one, fields or None)
        fault = (Vanished.__name__, "it names no picture, and there is none of its name (--image-column, --image-root)")
        return Picture(id or stem, stem, "", fields or None, fault)
