"""Archived: pictures of a run that lie inside other files, in tars and tables, for exports that want their bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from caption.errors import CaptionError, Unreadable
from caption.image import ENDINGS, FORMATS
from caption.outputs.pictures import picture_path
from caption.runfile import read_run_file
from caption.sources import STDIN, open_source


class Archived:
    """Finds the picture of a row: the file of its name, or the place in the run's input that has its id.

    The input is looked through once, when the first picture is no file; the places of all that are none are kept.

    Args:
        out: output folder of the run.
        root: folder from which the rows' images count.
    """

    def __init__(self, out: Path, root: Path):
        self._out, self._root = out, root
        self._places: dict[str, Any] | None = None

    def read(self, row: dict) -> bytes:
        """The bytes of a row's picture.

        Raises:
            OSError, ItemError: it is gone, or can't be read.
        """
        path = picture_path(self._root, row["image"])
        if path.is_file():
            return path.read_bytes()
        if self._places is None:
            self._places = self._look()
        if row["id"] not in self._places:
            raise FileNotFoundError(path)
        return self._places[row["id"]].read()

    def _look(self) -> dict[str, Any]:
        settings = read_run_file(self._out)["runs"][-1]["settings"]
        try:
            if not settings.get("input") or settings["input"] == STDIN:
                return {}
            items = open_source(settings["input"], 0, self._out, settings).items(None)
            return {item.id: item.where for item in items if hasattr(item.where, "read")}
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

