"""Tiles of a picture that are cut on the device, where most of what they cost a loader is a resize.

The checkpoint's own image processor runs on a stand-in that writes down what is to be done, resizes and cuts. So
that is a matter of the processor alone, whatever it makes of a picture's size. Whether the outcome is the same, to the
last bit, is tried on pictures when the processor is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from caption.engine.pixels import Levels, Ones, Packed
from caption.engine.resample import FILTERS, find_order

MOST = 4  # times as many bytes as the tiles, in a picture that is worth being sent whole
# Wide, high, large, small: blown up and shrunk.
SIZES = ((200, 150), (70, 310), (900, 400), (30, 20))


class Resize(NamedTuple):
    """resample: Pillow's number of the filter. rows_first: whether rows are resized before columns."""

    height: int
    width: int
    resample: int
    rows_first: bool


@dataclass(frozen=True, eq=False)
class Planned:
    """Stands for uint8[channels, height, width] that is not made yet: of the source, resized in turn, a part."""

    source: np.ndarray  # uint8[channels, height, width]
    resizes: tuple[Resize, ...] = ()
    top: int = 0
    left: int = 0
    size: tuple[int, int] | None = None  # of the part; None: all of it

    dtype, ndim = np.dtype(np.uint8), 3

    @property
    def shape(self) -> tuple[int, int, int]:
        whole = self.resizes[-1][:2] if self.resizes else self.source.shape[1:]
        return self.source.shape[0], *(self.size or whole)

    def resized(self, height: int, width: int, resample: int) -> Planned:
        if self.size is not None or resample not in FILTERS:
            raise ValueError("no plan for this")
        if (height, width) == self.shape[1:]:
            return self  # Pillow copies
        step = Resize(height, width, int(resample), find_order()(*self.shape[1:], height, width))
        return replace(self, resizes=(*self.resizes, step))

    def __getitem__(self, key) -> Planned:
        channels, rows, columns = key
        if channels != slice(None) or self.size is not None:
            raise ValueError("no plan for this")
        (top, bottom, down), (left, right, across) = (
            part.indices(length) for part, length in zip((rows, columns), self.shape[1:])
        )
        if (down, across) != (1, 1):
            raise ValueError("no plan for this")
        return replace(self, top=top, left=left, size=(bottom - top, right - left))


class WholeMask:
    """Stands for the mask of a tile without padding: ones."""


class Tile(NamedTuple):
    resizes: tuple[Resize, ...]
    top: int
    left: int


@dataclass(frozen=True, eq=False)
class Tiles(Packed):
    """Stands for uint8[1, tiles, channels, height, width]: parts of `raw`, uint8[channels, ...], after resizes."""

    tiles: tuple[Tile, ...] = ()
    size: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, ...]:
        return 1, len(self.tiles), self.raw.shape[0], *self.size

    def made(self) -> Packed:
        """Made here by Pillow."""
        pictures: dict[tuple[Resize, ...], np.ndarray] = {(): self.raw}
        made = np.empty(self.shape, np.uint8)
        height, width = self.size
        for place, tile in enumerate(self.tiles):
            for count, step in enumerate(tile.resizes, 1):
                if tile.resizes[:count] not in pictures:
                    before = Image.fromarray(pictures[tile.resizes[: count - 1]].transpose(1, 2, 0))
                    resized = np.asarray(before.resize((step.width, step.height), step.resample))
                    pictures[tile.resizes[:count]] = resized.transpose(2, 0, 1)
            made[0, place] = pictures[tile.resizes][:, tile.top : tile.top + height, tile.left : tile.left + width]
        return Packed(made, self.levels)


def gather(planned: np.ndarray, levels: Levels | None, most: float = MOST) -> Tiles | None:
    """What a processor has made of stand-ins, [1, tiles] of them; None where they are no tiles of one size, or the
    picture has more than `most` times as many bytes."""
    if planned.dtype != object or planned.ndim != 2 or len(planned) != 1 or not planned.size:
        return None
    parts = list(planned[0])
    if not all(isinstance(part, Planned) for part in parts) or len({part.shape for part in parts}) > 1:
        return None
    source, size = parts[0].source, parts[0].shape[1:]
    if source.nbytes > most * planned.size * source.shape[0] * size[0] * size[1]:
        return None
    tiles = tuple(Tile(part.resizes, part.top, part.left) for part in parts)
    return Tiles(np.ascontiguousarray(source), levels, tiles, size)


def gather_masks(planned: np.ndarray, tiles: Tiles) -> Ones | np.ndarray:
    """The masks of these tiles, made of nothing where stand-ins stand for all."""
    if planned.dtype != object or not all(isinstance(mask, WholeMask) for mask in planned.flat):
        return planned
    return Ones(np.ones((), np.uint8), None, (*planned.shape, *tiles.size))


def plan_with(image_processor) -> bool:
    """Let this image processor of transformers make plans while its `plans` is set. False where it is none that can.

    Its own steps stay: it gets stand-ins for pictures, and only the resize that all of them end in is another.
    """
    from transformers.image_processing_backends import PilBackend

    class Recorder(PilBackend):
        """Behind the processor's own class, whose resize calls this one."""

        def resize(self, image, size, resample=None, **kwargs):
            if not isinstance(image, Planned):
                return super().resize(image, size, resample=resample, **kwargs)
            if any(kwargs.values()) or not (size.height and size.width) or size.shortest_edge or size.longest_edge:
                raise ValueError("no plan for this")
            return image.resized(size.height, size.width, resample)

    own = type(image_processor)
    if not issubclass(own, PilBackend) or find_order() is None:
        return False

    def _preprocess(self, images, *args, **kwargs):
        if self.plans:
            images = [[Planned(one) for one in row] if isinstance(row, list) else Planned(row) for row in images]
        return own._preprocess(self, images, *args, **kwargs)

    def pad(self, images, *args, **kwargs):
        size = args[0] if args else None
        if isinstance(images, Planned) and size == images.shape[1:]:  # of those that pad one by one, with a mask each
            return images, WholeMask()
        return own.pad(self, images, *args, **kwargs)

    body = {"_preprocess": _preprocess, "pad": pad, "plans": False}
    image_processor.__class__ = type(own.__name__, (own, Recorder), body)
    return True
