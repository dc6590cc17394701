"""ParquetSource: Parquet files with the paths of the pictures, or with the pictures themselves."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator, Sequence

import orjson

from caption.errors import BadRow, InputError
from caption.sources.columns import choose_columns, id_of, picture_of
from caption.sources.folder import as_id, shown
from caption.sources.picture import Picture
from caption.where import ParquetCell

_ROWS = 2048  # read at once


def import_pyarrow(what: str):
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"reading {what} needs pyarrow", "pip install pyarrow") from error
    return pyarrow


class ParquetSource:
    """Rows of one file after the other. A picture that stands in its cell is left there for a loader to read.

    Args:
        paths: the files, in order.
        names: what ids begin with for each file, where rows have no path of their own.
        root: relative paths count from here; None is the folder of the file.

    Raises:
        InputError: a file is no Parquet, or the first has no column with the pictures.
    """

    takes = "it takes a row an image"
    unique = False
    ignored = 0
    ignored_first = ()

    def __init__(
        self,
        paths: Sequence[str],
        names: Sequence[str],
        root: str | None,
        image_column: str | None,
        id_column: str | None,
        described: str,
    ):
        self.described = described
        self.warnings: list[str] = []
        self._paths, self._names, self._root = paths, names, root
        self._parquet = import_pyarrow("Parquet").parquet
        schema = self._open(paths[0]).schema_arrow
        self._image, self._id = choose_columns(schema.names, image_column, id_column, described)
        self._own_prompts = "prompt" in schema.names

    def _open(self, path: str):
        try:
            return self._parquet.ParquetFile(path)
        except OSError as error:
            raise InputError(f"can't read {shown(path)}: {error.strerror or error}", "check the file") from error
        except ValueError as error:  # pyarrow's own
            raise InputError(f"{shown(path)} is no whole Parquet file: {error}", "download it again") from error

    def size(self) -> int | None:
        if self._own_prompts:  # a row with its own makes one item, whatever the run's prompts
            return None
        return sum(self._open(path).metadata.num_rows for path in self._paths)

    def pictures(self) -> Iterator[Picture]:
        self.warnings.clear()
        for path, name in zip(self._paths, self._names):
            file = self._open(path)
            if self._image not in file.schema_arrow.names:
                raise InputError(f"{shown(path)} has no column {self._image!r}", "take it out, or name another column")
            yield from self._rows(file, path, name)

    def _rows(self, file, path: str, name: str) -> Iterator[Picture]:
        columns, embedded = readable_columns(file.schema_arrow, self._image)
        root = self._root if self._root is not None else os.path.dirname(path)
        number, everywhere, named = 0, partition_fields(name), class_names(file.schema_arrow)
        for group in range(file.num_row_groups):
            for row, fields in enumerate(self._fields(file, group, columns, path)):
                place = f"{name}:{number}"
                number += 1
                fields = with_names(fields, named)
                if everywhere:
                    fields = {**everywhere, **fields}
                value = fields.pop(self._image, None)
                id = id_of(fields.pop(self._id, None)) if self._id else None
                if embedded:
                    where = ParquetCell(path, group, row, self._image)
                    yield embedded_picture(value, where, place, id, fields or None)
                else:
                    yield picture_of(value, root, place, id, fields or None)

    def _fields(self, file, group: int, columns: list[str], path: str) -> Iterator[dict]:
        count = file.metadata.row_group(group).num_rows
        if not columns:
            yield from ({} for _ in range(count))
            return
        try:
            for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns):
                yield from batch.to_pylist()
        except (OSError, ValueError) as error:
            raise InputError(f"{shown(path)} is broken: {error}", "write or download it again") from error


def readable_columns(schema, image: str) -> tuple[list[str], bool]:
    """What is read of each row, all but bytes; and whether the picture stands in its cell."""
    import pyarrow as pa

    def is_bytes(kind) -> bool:
        plain = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
        return plain or pa.types.is_fixed_size_binary(kind)

    columns, embedded = [], False
    for field in schema:
        inner = [part.name for part in field.type] if pa.types.is_struct(field.type) else []
        if field.name == image and ("bytes" in inner or is_bytes(field.type)):
            embedded = True
            columns += [f"{image}.path"] if "path" in inner else []
        elif not is_bytes(field.type) and "bytes" not in inner:
            columns.append(field.name)
    return columns, embedded


def partition_fields(name: str) -> dict[str, str]:
    """What the folders of a partitioned table say of all rows of a file: ``split=train/part-0.parquet``."""
    pairs = (folder.partition("=") for folder in name.split("/")[:-1])
    return {key: urllib.parse.unquote(value) for key, equals, value in pairs if key and equals}


def class_names(schema) -> dict[str, list[str]]:
    """The names behind the numbers of the columns that are a ClassLabel of ``datasets``."""
    try:
        features = orjson.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        labels = {column: kind["names"] for column, kind in features.items() if kind.get("_type") == "ClassLabel"}
        return {column: names for column, names in labels.items() if isinstance(names, list)}
    except (ValueError, LookupError, TypeError, AttributeError):  # another's metadata, or none
        return {}


def with_names(fields: dict, named: dict[str, list[str]]) -> dict:
    """The fields, names in place of the numbers of classes."""
    for column, names in named.items():
        value = fields.get(column)
        if isinstance(value, int) and 0 <= value < len(names):
            fields[column] = names[value]
    return fields


def embedded_picture(value, where, place: str, id: str | None, fields: dict | None) -> Picture:
    """A picture in a cell: its id is its own, else the path that is kept with it, else its place."""
    path = value.get("path") if isinstance(value, dict) else None
    if path is not None and not isinstance(path, str):
        return Picture(id or place, place, where, fields, (BadRow.__name__, "its path is no text"))
    image = as_id(path) if path else place
    return Picture(id or image, image, where, fields)
