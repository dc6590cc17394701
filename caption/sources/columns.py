"""Columns: which one of a manifest holds the pictures, which one the ids, and where a relative path begins."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

from caption.errors import BadRow, InputError, NotLocal
from caption.sources.folder import as_id
from caption.sources.picture import Picture
from caption.urls import Url, is_stored, local_path, scheme

IMAGE_COLUMNS = (
    "image", "image_path", "file_name", "filename", "file_path", "filepath", "path", "image_file", "img", "img_path",
    "image_name", "picture", "photo", "file", "jpg", "png", "webp", "image_url", "url",
)  # fmt: skip
ID_COLUMNS = ("id", "image_id", "key", "__key__", "uid", "uuid")


def choose_columns(names: Sequence[str], image: str | None, id: str | None, described: str) -> tuple[str, str | None]:
    """The names of the picture's and of the id's column; the latter is None if there is none.

    Args:
        names: the columns that there are.
        image, id: as the user named them, or None to guess them among the usual names, in any case.

    Raises:
        InputError: there is no such column.
    """
    shown = ", ".join(map(str, names)) or "none"
    if image is not None and image not in names:
        raise InputError(f"{described} has no column {image!r}", _nearest(image, names, shown))
    if id is not None and id not in names:
        raise InputError(f"{described} has no column {id!r}", _nearest(id, names, shown))
    image = image or _guess(names, IMAGE_COLUMNS)
    if image is None:
        raise InputError(
            f"{described} has no column that looks like the pictures'; its columns are {shown}",
            "name it with --image-column",
        )
    return image, id or _guess([name for name in names if name != image], ID_COLUMNS)


def _guess(names: Sequence[str], usual: Sequence[str]) -> str | None:
    by_lower = {str(name).lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in usual if name in by_lower), None)


def _nearest(name: str, names: Sequence[str], shown: str) -> str:
    close = difflib.get_close_matches(name, map(str, names), n=1)
    return f"{close[0]} is the nearest" if close else f"its columns are {shown}"


def picture_of(value: Any, root: str, place: str, id: str | None, fields: dict | None) -> Picture:
    """The picture that a manifest names.

    Args:
        value: what stands in the picture's column.
        root: relative paths count from here.
        place: the row in words ("rows.csv:7"), the id where there is no other.
        id: the row's own id, or None: the path is the id.

    Raises:
        UsageError: it lies in a store whose package is not installed.
    """
    if isinstance(value, dict) and value.get("bytes") is None:
        value = value.get("path")  # as datasets writes pictures into JSON
    if value is None or value == "":
        return Picture(id or place, "", "", fields, (BadRow.__name__, "it names no picture"))
    if not isinstance(value, str):
        return Picture(id or place, "", "", fields, (BadRow.__name__, f"its picture is no path: {repr(value)[:80]}"))
    if value.startswith("data:"):  # a picture would be its own id
        fault = (BadRow.__name__, "its picture is a data URI: write it into a file, or into a cell of Parquet")
        return Picture(id or place, "", "", fields, fault)
    value = local_path(value)
    shown, where = as_id(value), value if scheme(value) else os.path.join(root, value)
    if not scheme(where):
        return Picture(id or shown, shown, where, fields)
    if is_stored(where):
        return Picture(id or shown, shown, Url(where), fields)
    fault = (NotLocal.__name__, "it is a URL: download the pictures first, then name the files")
    return Picture(id or shown, shown, "", fields, fault)


def id_of(value: Any) -> str | None:
    """An id as text; None where there is none."""
    if value is None or value == "" or isinstance(value, dict | list):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # tables make floats of whole numbers where one is missing
    return as_id(value) if isinstance(value, str) else str(value)
