"""Archived: pictures of a run that lie inside other files or elsewhere, for those that want to see them."""

from __future__ import annotations

import io
import os
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from caption.errors import CaptionError, Unreadable
from caption.image import ENDINGS, FORMATS
from caption.outputs.pictures import picture_path
from caption.runfile import read_run_file
from caption.sources import STDIN, open_source
from caption.where import Where


class Archived:
    """Finds the picture of a row: the file of its name, or the place in the run's input that has its id.

    The input is looked through once, when the first picture is no such file; the places of those are kept.

    Args:
        out: output folder of the run.
        root: folder from which the rows' images count.
        only: the ids of all rows that will be asked for, where they are known; the places of others are not kept.
    """

    def __init__(self, out: Path, root: Path, only: Collection[str] | None = None):
        self._out, self._root, self._only = out, root, only
        self._places: dict[str, Where] | None = None

    def read(self, row: dict) -> bytes:
        """The bytes of a row's picture.

        Raises:
            OSError, ItemError: it is gone, or can't be read.
        """
        where = self.place(row)
        return Path(where).read_bytes() if isinstance(where, str) else where.read()

    def place(self, row: dict) -> Where:
        """Where a row's picture is.

        Raises:
            FileNotFoundError: it is gone.
        """
        path = picture_path(self._root, row["image"])
        if path.is_file():
            return str(path)
        if self._places is None:
            self._places = self._look()
        if row["id"] not in self._places:
            raise FileNotFoundError(path)
        return self._places[row["id"]]

    def _look(self) -> dict[str, Where]:
        settings = read_run_file(self._out)["runs"][-1]["settings"]
        try:
            if not settings.get("input") or settings["input"] == STDIN:
                return {}
            items = open_source(settings["input"], 0, self._out, settings).items(None)
            wanted = (item for item in items if self._only is None or item.id in self._only)
            places = ((item.id, item.where) for item in wanted if item.where != os.path.join(self._root, item.image))
            return {id: where for id, where in places if where}
        except (CaptionError, OSError):  # the input is gone: its pictures are counted as missing
            return {}


def ending(image: str, content: bytes) -> str:
    """The ending of a picture's name, with its dot; of one without, what its content is.

    Raises:
        Unreadable: neither tells.
    """
    given = Path(image).suffix.lower()
    if given in ENDINGS:
        return given
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            return "." + picture.format.lower()
    except (OSError, KeyError, ValueError) as error:
        raise Unreadable(f"{image} is no picture") from error
