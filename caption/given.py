"""Given: pictures as a Python caller gives them: paths, Pillow's, encoded bytes, arrays, or rows that hold one."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from caption.errors import BadRow, EmptyFile, ItemError, NotAnImage, OutOfMemory
from caption.image import DecodeOptions, upright_rgb
from caption.sharedmemory import Outgoing, new_memory
from caption.sources.columns import id_of, picture_of
from caption.sources.picture import Picture
from caption.where import Shared

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class PictureMemory:
    """Memory shared with all processes of a pool, for pictures that are no files.

    It has no name, so that nothing is left behind whoever is killed. It grows to what was needed most, and goes with
    the pool. ``put`` may be called by several threads.
    """

    def __init__(self):
        self.descriptor = new_memory()
        self._outgoing = Outgoing(self.descriptor)
        self._blocks: dict[int, tuple[int, int]] = {}  # offset of a picture -> its block
        self._dropped: deque[int] = deque()
        self._lock = threading.Lock()
        self._closed = False

    def put(self, data: bytes, sides: tuple[int, int] | None = None) -> Shared:
        """Writes a picture there. Raises OSError or MemoryError if there is no room, or all is closed."""
        with self._lock:
            if self._closed:
                raise OSError("it is closed")
            while self._dropped:
                self._outgoing.free((self._blocks.pop(self._dropped.popleft()),))
            block, offset = self._outgoing.put(data)
            self._blocks[offset] = block
        return Shared(self.descriptor, offset, len(data), sides)

    def drop(self, where: Any) -> None:
        """The place can be used again. It takes no lock: whatever is collected as garbage may call it at any moment."""
        if isinstance(where, Shared) and where.size:
            self._dropped.append(where.offset)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._outgoing = None
            os.close(self.descriptor)


class GivenPictures:
    """The pictures of one call, read one by one, in the caller's thread.

    Attributes:
        latest: what was given for the latest picture.
    """

    described, takes, unique, ignored = "images", "", True, 0  # an id may stand twice: results come by position

    def __init__(self, images: Iterable[Any], memory: PictureMemory, decode: DecodeOptions):
        self._images, self._memory, self._decode = iter(images), memory, decode
        self.warnings: list[str] = []
        self.latest: Any = None

    def size(self) -> None:
        """Not known before they are read."""

    def pictures(self) -> Iterator[Picture]:
        for position, given in enumerate(self._images):
            self.latest = given
            try:
                yield self._picture(given, f"image {position}")
            except ItemError as error:
                yield Picture(f"image {position}", "", "", None, (type(error).__name__, str(error)))

    def _picture(self, given: Any, place: str) -> Picture:
        if not isinstance(given, Mapping):
            return self._found(given, place, None, None)
        if "image" not in given:
            raise BadRow(f"it has no image, but {', '.join(map(str, given)) or 'nothing'}")
        fields = {name: value for name, value in given.items() if name not in ("image", "id")}
        return self._found(given["image"], place, id_of(given.get("id")), fields)

    def _found(self, image: Any, place: str, id: str | None, fields: dict | None) -> Picture:
        if isinstance(image, Mapping) and "bytes" in image:  # as the library datasets has undecoded ones
            image = image["path"] if image["bytes"] is None else image["bytes"]
        if isinstance(image, str | os.PathLike):
            return picture_of(os.fspath(image), os.getcwd(), place, id, fields)
        return Picture(id or place, "", self._put(image), fields)

    def _put(self, image: Any) -> Shared:
        if isinstance(image, bytes | bytearray | memoryview):
            if not len(image):
                raise EmptyFile("there are zero bytes")
            return self._written(bytes(image), None)
        if isinstance(image, np.ndarray):
            image = _from_array(image)
        if not isinstance(image, Image.Image):
            raise NotAnImage(f"it is neither a path nor a picture, but {type(image).__name__}")
        picture = upright_rgb(image, self._decode)
        if not picture.width * picture.height:
            raise NotAnImage(f"it is {picture.width}x{picture.height}")
        return self._written(picture.tobytes(), picture.size)

    def _written(self, data: bytes, sides: tuple[int, int] | None) -> Shared:
        try:
            return self._memory.put(data, sides)
        except (OSError, MemoryError) as error:
            raise OutOfMemory(f"there is no shared memory for its {len(data):,} bytes: {error}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    """Of height x width [x 1, 3 or 4], bytes."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in _MODES or not array.size:
        shape = "x".join(map(str, array.shape))
        raise NotAnImage(f"an array of {array.dtype} {shape} is no picture: height x width x 3 of uint8 is one")
    return Image.fromarray(array.reshape(*array.shape[:2], channels).squeeze(2) if channels == 1 else array)


def refuse_one(images: Any) -> None:
    """Raises TypeError for one image in place of many: its letters or rows would be taken for images."""
    one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image | Mapping)
    if one or (isinstance(images, np.ndarray) and images.ndim < 4):
        raise TypeError(f"caption() takes several images, not one {type(images).__name__}: write caption([image])")
    if not isinstance(images, Iterable):
        raise TypeError(f"caption() takes images, in a list or another iterable, not {type(images).__name__}")
