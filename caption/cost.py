"""Cost: an estimate of the work that each image is, by which costly ones go first. It changes no caption."""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Callable

from caption.item import Item
from caption.settings import Settings

try:
    import imagesize
except ImportError:  # then the size of the file has to do
    imagesize = None

_HEAD = 32_768  # bytes that are read of a file: what cameras put before the picture fits in
_LONGEST = 1.0  # seconds for the files of one block: the run must not wait for a slow disk
# In a run of Qwen2.5-VL-7B's shape a token that is read costs what one that is written does (scripts/bench_engine.md:
# vision and prefill 15.1 ms for 442 tokens, decoding 3.1 ms for 91).
_PIXELS_A_TOKEN = 28 * 28
_LETTERS_A_TOKEN = 4
_COST = Item._fields.index("cost")
_SIZE_FIELDS = (("width", "height"), ("WIDTH", "HEIGHT"))


def estimator(settings: Settings) -> Callable[[list[Item]], list[Item]]:
    """What gives the items of a run their cost; only ``dynamic`` has a use for it."""
    return Cost(settings).estimated if settings.schedule == "dynamic" else list


class Cost:
    """Args:
    settings: prompt and limits of the run, for items that have none of their own.
    """

    def __init__(self, settings: Settings):
        self._prompt, self._max_new_tokens = settings.prompt, settings.max_new_tokens
        self._max_pixels = settings.max_pixels  # larger pictures are scaled down

    def estimated(self, items: list[Item]) -> list[Item]:
        """The items with their cost.

        Pictures in tars and tables have none: they are read fast only in their order. The pixels are those that the
        input itself names (``width`` and ``height`` of a row), else those in the header of the file, else its bytes
        stand for them. Files are looked at for a second at most; those after that count as the average of the others.
        """
        deadline = time.monotonic() + _LONGEST
        pixels: list[int | None] = []
        for item in items:
            known = _named(item.extra) if item.extra else 0
            if not known and isinstance(item.where, str) and not item.fault:
                known = _in_file(item.where) if time.monotonic() < deadline else None
            pixels.append(known if known is None else min(known, self._max_pixels))
        seen = [one for one in pixels if one]
        average = sum(seen) / len(seen) if seen else 0
        return [
            _with_cost(item, self._cost(item, average if one is None else one))
            if isinstance(item.where, str)
            else item
            for item, one in zip(items, pixels)
        ]

    def _cost(self, item: Item, pixels: float) -> float:
        prompt = len(self._prompt if item.prompt is None else item.prompt)
        return pixels / _PIXELS_A_TOKEN + prompt / _LETTERS_A_TOKEN + (item.max_new_tokens or self._max_new_tokens)


def _with_cost(item: Item, cost: float) -> Item:
    return Item._make((*item[:_COST], cost, *item[_COST + 1 :]))  # _replace takes twice as long


def _named(fields: dict) -> int:
    """Pixels, as the fields of a row say; 0 if they do not."""
    for width, height in _SIZE_FIELDS:
        try:
            return max(0, int(fields[width]) * int(fields[height]))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return 0


def _in_file(path: str) -> int:
    """Pixels, as the header of a file says, else its bytes; 0 of what can't be read."""
    try:
        status = os.stat(path)
        if not status.st_size or not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            return 0
        return _in_header(path) or status.st_size
    except (OSError, ValueError):
        return 0


def _in_header(path: str) -> int:
    if imagesize is None:
        return 0
    with open(path, "rb", buffering=0) as file:
        head = io.BytesIO(file.read(_HEAD))
    try:
        width, height = imagesize.get(head, exif_rotation=False)
    except Exception:  # a broken header makes it raise almost anything; a loader will say what is wrong
        return 0
    return width * height if width > 0 and height > 0 else 0
