"""Arrays that cross to the device as one byte a value, because each value is one of 256.

A processor's last steps, rescaling and normalising, give every 8-bit value of a channel one float. So they are left
out, the bytes are sent, and the device looks the floats up in the processor's own results: equal to the last bit, for
a quarter of the traffic and none of the work. Whether that is so is tried on pictures when a processor is loaded;
where it is not (a processor that pads behind its normalising), floats are sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

STEPS = ("do_rescale", "do_normalize")  # as transformers' image processors call what is left out
# Odd, lying, and thin, so that tiles, padding and rounding of all kinds show. The last one makes the fewest tiles.
SIZES = ((257, 301), (511, 203), (83, 640))
MORE = 8  # pictures at most, for values that have not come out of those
COLOUR = (60, 120, 180)
LEAST = 1 << 16  # smaller arrays are not worth a look


@dataclass(frozen=True)
class Levels:
    """What the bytes of an array stand for, and where its channels are.

    Place i along dimension `axis` (negative: counted from the end) is of channel `i // run % channels`.
    """

    values: bytes  # fp32[channels, 256]
    axis: int
    run: int

    def channel(self, count: int) -> np.ndarray:
        """The channel of each of `count` places along `axis`, shaped to be broadcast: int[count, 1, ...]."""
        channel = np.arange(count) // self.run % (len(self.values) // 1024)
        return channel.reshape(-1, *[1] * (-self.axis - 1))


@dataclass(frozen=True, eq=False)
class Packed:
    """Stands for an array of `shape`, in one byte a value. levels: None where the bytes are the values."""

    raw: np.ndarray  # uint8
    levels: Levels | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.raw.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def made(self) -> Packed:
        """The same, with all of its bytes in `raw`."""
        return self


@dataclass(frozen=True, eq=False)
class Ones(Packed):
    """Stands for an array of ones that the model makes by itself where it gets none. raw: uint8[()], one of them."""

    sizes: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sizes

    def made(self) -> Packed:
        return Packed(np.broadcast_to(self.raw, self.sizes).copy())


def pack_mask(array: np.ndarray) -> np.ndarray | Packed:
    """The array, packed if it is a large one of int64 that holds only 0 to 255, such as a mask over pixels."""
    if array.nbytes < LEAST or array.dtype != np.int64 or array.view(np.uint64).max() > 255:
        return array
    return Packed(array.astype(np.uint8))


def along_tokens(array: np.ndarray | Packed, item: dict) -> bool:
    """Whether dimension 1 runs along the tokens: [1, tokens, ...], as input_ids, masks and token types do.

    Told by the length. A chance hit for another array does no harm: it would have to be hit in each item of a batch
    whose items differ in length.
    """
    ids = item.get("input_ids")
    return ids is not None and array.ndim >= 2 and array.shape[:2] == ids.shape


def find_levels(image_processor, process: Callable[[Image.Image], dict]) -> dict[str, Levels]:
    """Say which arrays of `process` can be sent as bytes, and leave its last steps out if there is one.

    process: gives a picture's arrays, by means of the image processor. Empty where one of the arrays could not be
    made again from bytes.
    """
    steps = {name: True for name in STEPS if getattr(image_processor, name, None)}
    without = dict.fromkeys(steps, False)
    if not steps:
        return {}
    noise, proofs = np.random.default_rng(0), {}
    try:
        _set(image_processor, without)
        plain = process(Image.new("RGB", SIZES[-1], COLOUR))
        for number in range(len(SIZES) + MORE):
            unseen = [proof.unseen() for proof in proofs.values() if proof.unseen().any()]
            if number >= len(SIZES) and not unseen:
                break
            picture = _blocks(noise, SIZES[number % len(SIZES)], unseen[0] if number >= len(SIZES) else None)
            _set(image_processor, steps)
            floats = {name: np.asarray(value) for name, value in process(picture).items()}
            _set(image_processor, without)
            raws = process(picture)
            for name in [name for name, value in floats.items() if value.dtype.kind == "f"]:
                proof = proofs.setdefault(name, _Proof(np.asarray(plain[name])))
                proof.add(np.asarray(raws[name]), floats[name])
    except Exception:  # a processor that can't do without these steps does with them
        proofs = {}
    found = {name: proof.levels() for name, proof in proofs.items()}
    if not found or None in found.values():
        _set(image_processor, steps)
        return {}
    return found


def _set(image_processor, steps: dict[str, bool]) -> None:
    for name, value in steps.items():
        setattr(image_processor, name, value)


def _blocks(noise: np.random.Generator, size: tuple[int, int], wanted: np.ndarray | None) -> Image.Image:
    """Plain rectangles of all values, or fewer and larger ones of those wanted: most outlive a scaling."""
    across = 16 if wanted is None else 6
    colours = np.empty((across, across, len(COLOUR)), np.uint8)
    for channel in range(len(COLOUR)):
        values = np.arange(256) if wanted is None or not wanted[channel].any() else wanted[channel].nonzero()[0]
        colours[..., channel] = noise.permutation(np.resize(values, across * across)).reshape(across, across)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


class _Proof:
    """Whether the floats of an array are told by its bytes, on all pictures so far.

    plain: the array of a picture that is all COLOUR, without the last steps.
    """

    def __init__(self, plain: np.ndarray):
        place = _find_channels(plain)
        self.holds = place is not None
        self.place = place or (-1, 1)
        self.values = np.full(256 * len(COLOUR), np.nan, np.float32)

    def add(self, raw: np.ndarray, exact: np.ndarray) -> None:
        small = as_bytes(raw)
        if not self.holds or small is None or exact.dtype != np.float32 or small.shape != exact.shape:
            self.holds = False
            return
        place = small + 256 * Levels(self.values.tobytes(), *self.place).channel(small.shape[self.place[0]])
        before = self.values[place]
        self.values[place] = exact
        self.holds = bool(((before == exact) | np.isnan(before)).all() and np.array_equal(self.values[place], exact))

    def unseen(self) -> np.ndarray:
        """bool[channels, 256]: the values that no picture has shown, as far as it holds."""
        return (np.isnan(self.values) & self.holds).reshape(len(COLOUR), 256)

    def levels(self) -> Levels | None:
        """None where it does not hold, or where a value has not been seen."""
        if not self.holds or self.unseen().any():
            return None
        return Levels(self.values.tobytes(), *self.place)


def as_bytes(raw: np.ndarray) -> np.ndarray | None:
    """uint8 of the same values; None where there are others."""
    if raw.dtype == np.uint8:
        return raw
    small = raw.astype(np.uint8)
    return small if np.array_equal(small, raw) else None


def _find_channels(plain: np.ndarray) -> tuple[int, int] | None:
    """Axis and run of the channels in the array of a picture that is all COLOUR, padding (0) apart."""
    channel = np.full(plain.shape, -1)
    for number, value in enumerate(COLOUR):
        channel[plain == value] = number
    if (plain[channel == -1] != 0).any():
        return None
    for axis in range(-1, -plain.ndim - 1, -1):
        line = channel.max(tuple(other for other in range(plain.ndim) if other != axis % plain.ndim))
        run = int((line == 0).argmin()) or len(line)
        expected = np.arange(len(line)) // run % len(COLOUR)
        if len(line) % (run * len(COLOUR)) or (line != expected).any():
            continue
        there = np.broadcast_to(expected.reshape(-1, *[1] * (-axis - 1)), plain.shape)
        if ((channel == there) | (channel == -1)).all():
            return axis, run
    return None
