"""Image: from a file to an upright RGB picture, or to the reason why not."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from caption.errors import EmptyFile, NotAFile, NotAnImage, TooLarge, Truncated, Unreadable, Vanished
from caption.where import Shared, Where

ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class DecodeOptions:
    """Attributes:
    max_pixels: pixel budget of the picture given to the model; larger JPEGs are decoded at a half, quarter or
        eighth of their size when that still leaves at least this many pixels.
    max_pixels_decoded: larger pictures are refused as TooLarge.
    """

    max_pixels: int
    max_pixels_decoded: int


def read_image(where: Where, options: DecodeOptions) -> tuple[Image.Image, tuple[int, int]]:
    """Opens, decodes and turns a picture upright.

    Returns:
        The picture as RGB and the (width, height) of the upright original.

    Raises:
        ItemError: one of its subclasses, saying why there is no picture.
    """
    if isinstance(where, Shared) and where.sides:
        return Image.frombytes("RGB", where.sides, where.read()), where.sides
    with _open(where) as file, _decoding():
        return _upright_rgb(Image.open(file, formats=_formats()), options)


def upright_rgb(picture: Image.Image, options: DecodeOptions) -> Image.Image:
    """The picture upright and as RGB, as ``read_image`` would give it. Raises ItemError."""
    with _decoding():
        return _upright_rgb(picture, options, reduce=False)[0]


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """What decoders raise becomes an ItemError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError as error:
        raise NotAnImage("its content is no picture in a known format") from error
    except MemoryError as error:
        raise TooLarge("it does not fit into memory") from error
    except TooLarge:
        raise
    except OSError as error:
        if error.errno:  # the system's; Pillow's own have none
            raise Unreadable(f"it can't be read: {error.strerror}") from error
        raise Truncated(f"its data are broken: {error}") from error
    except Exception as error:  # decoders raise almost anything on broken data
        raise Truncated(f"its data are broken: {error}") from error


def _open(where: Where):
    if not isinstance(where, str):
        return io.BytesIO(where.read())
    try:
        # Looked at before it is opened: a device may take the opening as a command.
        _refuse_unless_file(os.stat(where))
        # And opened so that a pipe that has taken its place meanwhile does not hold the loader for ever.
        descriptor = os.open(where, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Vanished("it is gone, or a link to nothing") from error
    except ValueError as error:
        raise Vanished(f"no file can have this name: {error}") from error
    except OSError as error:
        raise Unreadable(f"it can't be opened: {error.strerror}") from error
    try:
        _refuse_unless_file(os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_unless_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotAFile("it is a pipe, a socket, a device or a folder")
    if status.st_size == 0:
        raise EmptyFile("the file has zero bytes")


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow can open; HEIF through pillow-heif where it is installed.

    Sets what holds for all of Pillow, so not before this process decodes: a caller of CaptionPool has Pillow as it was.
    """
    Image.MAX_IMAGE_PIXELS = None  # DecodeOptions.max_pixels_decoded is checked instead: an error, never a warning
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # picture generators store whole workflows as text
    if "HEIF" not in Image.OPEN:
        try:
            import pillow_heif

            pillow_heif.register_heif_opener()
        except ImportError:
            pass
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _upright_rgb(
    picture: Image.Image, options: DecodeOptions, reduce: bool = True
) -> tuple[Image.Image, tuple[int, int]]:  # fmt: skip
    width, height = picture.size
    if width * height > options.max_pixels_decoded:
        raise TooLarge(f"{width}x{height} is more than {options.max_pixels_decoded} pixels (--max-pixels-decoded)")
    reduced = False
    if reduce and picture.format in ("JPEG", "MPO") and width * height > 4 * options.max_pixels:
        scale = (width * height / options.max_pixels) ** 0.5
        reduced = bool(picture.draft(None, (math.ceil(width / scale), math.ceil(height / scale))))
    picture.load()  # of an animation, the first frame
    # Asked after the loading: it can stand behind the pixels (PNG), and Pillow turns TIFFs as it loads them.
    turn, sides_change = _turn(picture)
    if turn is not None:
        picture = picture.transpose(turn)
    size = picture.size if not reduced else (height, width) if sides_change else (width, height)
    return _rgb(picture), size


def _turn(picture: Image.Image) -> tuple[Image.Transpose | None, bool]:
    """What makes it upright, and whether that swaps width and height. Broken metadata don't cost the picture."""
    try:
        orientation = picture.getexif().get(0x0112, 1)
    except Exception:  # the parser raises almost anything
        return None, False
    return _TURNS.get(orientation), orientation in (5, 6, 7, 8)


def _rgb(picture: Image.Image) -> Image.Image:
    """RGB as a viewer shows it: transparency on white, 16 bits scaled to 8."""
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return _eight_bits(picture).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        ground.alpha_composite(layer)
        return ground.convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey from values of more bits: by the range they are usually stored in, or stretched where that is unknown."""
    if picture.mode.startswith("I;16"):
        return picture.convert("I").point(lambda value: value / 257).convert("L")
    import numpy as np  # few pictures have such values

    values = np.asarray(picture, np.float32)
    finite = np.isfinite(values)
    low, high = (float(end(where=finite, initial=far)) for end, far in ((values.min, np.inf), (values.max, -np.inf)))
    if low > high:  # not one number
        low, high = 0, 1
    if low >= 0 and high <= 65535:
        ranges = (1, 255, 65535) if picture.mode == "F" else (255, 65535)
        low, high = 0, next(top for top in ranges if high <= top)
    values = np.where(finite, values, low)
    return Image.fromarray(((values - low) * (255 / ((high - low) or 1))).clip(0, 255).astype(np.uint8))
