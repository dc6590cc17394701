"""StoredFolder: a folder of pictures in a store of objects, by its URL."""

from __future__ import annotations

from collections.abc import Iterator

from caption.image import ENDINGS
from caption.sources.folder import as_id
from caption.sources.picture import NAMED, Picture
from caption.urls import Url, walk


class StoredFolder:
    """Args:
    url: of the folder.
    """

    unique = True

    def __init__(self, url: str):
        self._url = url.rstrip("/")
        self.described = f"folder {self._url}"
        self.takes = "it takes files ending in " + " ".join(ending.lstrip(".") for ending in ENDINGS)
        self.ignored, self.ignored_first = 0, []
        self.warnings: list[str] = []

    def size(self) -> None:
        return None

    def pictures(self) -> Iterator[Picture]:
        self.ignored, self.ignored_first = 0, []
        for name, is_picture in walk(self._url, ENDINGS):
            id = as_id(name)
            if is_picture:
                yield Picture(id, id, Url(f"{self._url}/{name}"))
            else:
                self.ignored += 1
                self.ignored_first += [id] * (self.ignored <= NAMED)
