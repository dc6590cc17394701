"""What Pillow multiplies pixels with when it resizes a picture of 8 bits (its src/libImaging/Resample.c)."""

import functools
import itertools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

BITS = 22  # behind the point of a weight: 32, less those of a pixel, less two to spare
NEAR = 1e-6  # a weight so near to the middle between two is rounded by what the C library makes of it


def _sinc(x: np.ndarray, sine) -> np.ndarray:
    angle = np.pi * np.where(x == 0, 1, x)
    return np.where(x == 0, 1.0, sine(angle) / angle)


def _triangle(x: np.ndarray, sine) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray, sine) -> np.ndarray:
    a, x = -0.5, np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: np.ndarray, sine) -> np.ndarray:
    return np.where((x >= -3) & (x < 3), _sinc(x, sine) * _sinc(x / 3, sine), 0.0)


# By Pillow's number of the filter: how far it reaches, and its value.
FILTERS = {
    int(Image.Resampling.BILINEAR): (1.0, _triangle),
    int(Image.Resampling.BICUBIC): (2.0, _cubic),
    int(Image.Resampling.LANCZOS): (3.0, _lanczos),
}


@functools.lru_cache(1024)
def weights(before: int, after: int, resample: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `after` places made of `before`: the first that counts, int32[after], and the weights of it and those
    that follow, int32[taps, after] with BITS bits behind the point."""
    reach, value = FILTERS[resample]
    scale = before / after
    stretch = max(scale, 1.0)
    support = reach * stretch
    centre = (np.arange(after) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), before)
    taps = int((end - first).max())
    tap = np.arange(taps)[:, None]

    def scaled(columns, sine) -> np.ndarray:
        begin, stop, middle = (one[columns] for one in (first, end, centre))
        exact = value((tap + begin - middle + 0.5) * (1.0 / stretch), sine) * (tap < stop - begin)
        # Added up in their order, as Pillow does: a sum by pairs rounds otherwise.
        total = np.add.accumulate(exact, 0)[-1]
        return np.where(total != 0, exact / np.where(total != 0, total, 1), exact) * (1 << BITS)

    found = scaled(slice(None), np.sin)
    doubtful = (np.abs(found % 1 - 0.5) < NEAR).any(0).nonzero()[0]
    if len(doubtful):  # numpy's sine may differ from the C library's in its last bit
        found[:, doubtful] = scaled(doubtful, np.vectorize(math.sin, otypes=[np.float64]))
    return first.astype(np.int32), np.trunc(found + np.where(found < 0, -0.5, 0.5)).astype(np.int32)


# Whether rows are resized before columns, by height and width before and after: in Pillow 11 and 12, and in 13.
ORDERS: tuple[Callable[[int, int, int, int], bool], ...] = (
    lambda height, width, rows, columns: False,
    lambda height, width, rows, columns: height - rows > max(0, 2 * (width - columns)),
)
TRIED = ((20, 9, 8, 15), (9, 20, 21, 8), (30, 31, 11, 12), (12, 11, 30, 31), (25, 40, 20, 10), (40, 40, 10, 39))


@functools.cache
def find_order() -> Callable[[int, int, int, int], bool] | None:
    """The one of ORDERS by which `resized` makes the bytes of this Pillow; None: neither does."""
    noise = np.random.default_rng(0)
    for order in ORDERS:
        for resample, (height, width, rows, columns) in itertools.product(FILTERS, TRIED):
            picture = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
            theirs = np.asarray(Image.fromarray(picture).resize((columns, rows), resample))
            ours = resized(picture, rows, columns, resample, order(height, width, rows, columns))
            if not np.array_equal(ours, theirs):
                break
        else:
            return order
    return None


def resized(picture: np.ndarray, height: int, width: int, resample: int, rows_first: bool) -> np.ndarray:
    """uint8[height, width, channels] of uint8[..., ..., channels]: what the device does, done here."""
    for axis, length in ((0, height), (1, width)) if rows_first else ((1, width), (0, height)):
        if picture.shape[axis] == length:
            continue
        first, weight = weights(picture.shape[axis], length, resample)
        lines = np.moveaxis(picture, axis, 0).astype(np.int64)
        places = np.minimum(first + np.arange(len(weight))[:, None], len(lines) - 1)  # beyond the end weights are 0
        total = np.einsum("to,to...->o...", weight.astype(np.int64), lines[places]) + (1 << (BITS - 1))
        picture = np.moveaxis(np.clip(total >> BITS, 0, 255).astype(np.uint8), 0, axis)
    return picture
