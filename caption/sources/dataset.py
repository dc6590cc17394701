"""DatasetSource: a folder that ``datasets`` wrote with ``save_to_disk``; read without that library."""

from __future__ import annotations

import os
from collections.abc import Iterator

import orjson

from caption.errors import InputError
from caption.sources.columns import choose_columns, id_of, picture_of
from caption.sources.folder import as_id, shown
from caption.sources.parquet import class_names, embedded_picture, import_pyarrow, readable_columns, with_names
from caption.sources.picture import Picture
from caption.where import ArrowCell


class DatasetSource:
    """One saved dataset, or the splits of a saved DatasetDict one after the other.

    Args:
        folder: what ``save_to_disk`` was given.
        root: relative paths count from here; None is the folder itself.

    Raises:
        InputError: it is not whole, or has no column with the pictures.
    """

    takes = "it takes a row an image"
    unique = False
    ignored = 0
    ignored_first = ()

    def __init__(self, folder: str, root: str | None, image_column: str | None, id_column: str | None):
        self.described = f"dataset {shown(folder)}"
        self.warnings: list[str] = []
        self._root = folder if root is None else root
        self._pa = import_pyarrow("a saved dataset")
        self._files = [
            (split, as_id(os.path.join(split, name)), os.path.join(folder, split, name))
            for split in _splits(folder)
            for name in _data_files(os.path.join(folder, split))
        ]
        if not self._files:
            raise InputError(f"the {self.described} has no rows", "save it again")
        with self._open(self._files[0][2]) as reader:
            names = reader.schema.names
        self._image, self._id = choose_columns(names, image_column, id_column, self.described)

    def _open(self, path: str):
        try:
            return self._pa.ipc.open_stream(self._pa.memory_map(path))
        except (OSError, ValueError) as error:
            raise InputError(f"can't read {shown(path)}: {error}", "save the dataset again") from error

    def size(self) -> None:
        return None

    def pictures(self) -> Iterator[Picture]:
        self.warnings.clear()
        for split, name, path in self._files:
            with self._open(path) as reader:
                columns, embedded = readable_columns(reader.schema, self._image)
                with_path = f"{self._image}.path" in columns
                columns = [column for column in columns if column != f"{self._image}.path"]
                number, named = 0, class_names(reader.schema)
                try:
                    for index, batch in enumerate(reader):
                        paths = batch.column(self._image).field("path").to_pylist() if with_path else None
                        rows = batch.select(columns).to_pylist() if columns else [{} for _ in range(batch.num_rows)]
                        for row, fields in enumerate(rows):
                            place = f"{name}:{number}"
                            number += 1
                            fields = with_names(fields, named)
                            value = {"path": _in_split(paths[row], split)} if paths else fields.pop(self._image, None)
                            id = id_of(fields.pop(self._id, None)) if self._id else None
                            if embedded:
                                where = ArrowCell(path, index, row, self._image)
                                yield embedded_picture(value, where, place, id, fields or None)
                            else:
                                yield picture_of(value, self._root, place, id, fields or None)
                except (OSError, ValueError) as error:
                    raise InputError(f"{shown(path)} is broken: {error}", "save the dataset again") from error


def _in_split(path, split: str):
    """A saved dataset keeps no more of a path than its last part, which may stand in each split."""
    return f"{split}/{path}" if split and isinstance(path, str) and path else path


def is_dataset(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("dataset_dict.json", "state.json"))


def _splits(folder: str) -> list[str]:
    path = os.path.join(folder, "dataset_dict.json")
    return list(_json(path)["splits"]) if os.path.isfile(path) else [""]


def _data_files(folder: str) -> list[str]:
    return [file["filename"] for file in _json(os.path.join(folder, "state.json"))["_data_files"]]


class _Content(dict):
    """What a description holds; a key that it lacks means that it is not one."""

    def __init__(self, path: str, content: dict):
        super().__init__(content)
        self._path = path

    def __missing__(self, key: str):
        raise InputError(f"{shown(self._path)} has no {key!r}", "save the dataset again")


def _json(path: str) -> _Content:
    try:
        with open(path, "rb") as file:
            content = orjson.loads(file.read())
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {shown(path)}: {error}", "save the dataset again") from error
    return _Content(path, content if isinstance(content, dict) else {})
