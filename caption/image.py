"""Image: from a file to an upright RGB picture, or to the reason why not."""

from __future__ import annotations

import functools
import os
import stat
import warnings
from dataclasses import dataclass

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from caption.errors import EmptyFile, NotAFile, NotAnImage, TooLarge, Truncated, Unreadable, Vanished

ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")

Image.MAX_IMAGE_PIXELS = None  # DecodeOptions.max_pixels_decoded is checked instead: an error, never a warning
ImageFile.LOAD_TRUNCATED_IMAGES = False


@dataclass(frozen=True)
class DecodeOptions:
    """Attributes:
    max_pixels: pixel budget of the picture given to the model; larger JPEGs are decoded at a half, quarter or
        eighth of their size when that still leaves at least this many pixels.
    max_pixels_decoded: larger pictures are refused as TooLarge.
    """

    max_pixels: int
    max_pixels_decoded: int


def read_image(where: str, options: DecodeOptions) -> tuple[Image.Image, tuple[int, int]]:
    """Opens, decodes and turns a picture upright.

    Returns:
        The picture as RGB and the (width, height) of the upright original.

    Raises:
        ItemError: one of its subclasses, saying why there is no picture.
    """
    with _open(where) as file:
        formats = _formats()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture = Image.open(file, formats=formats)
                return _upright_rgb(picture, options)
        except UnidentifiedImageError as error:
            raise NotAnImage("its content is no picture in a known format") from error
        except MemoryError as error:
            raise TooLarge("it does not fit into memory") from error
        except TooLarge:
            raise
        except Exception as error:  # decoders raise almost anything on broken data
            raise Truncated(f"its data are broken: {error}") from error


def _open(where: str):
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would hold the loader for ever.
        descriptor = os.open(where, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise Vanished("it is gone, or a link to nothing") from error
    except OSError as error:
        # A socket can't be opened at all (ENXIO).
        if not os.path.isfile(where) and os.path.exists(where):
            raise NotAFile("it is a socket or a device") from error
        raise Unreadable(f"it can't be opened: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAFile("it is a pipe, a device or a folder")
        if status.st_size == 0:
            raise EmptyFile("the file has zero bytes")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow can open; HEIF through pillow-heif where it is installed."""
    if "HEIF" not in Image.OPEN:
        try:
            import pillow_heif

            pillow_heif.register_heif_opener()
        except ImportError:
            pass
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _upright_rgb(picture: Image.Image, options: DecodeOptions) -> tuple[Image.Image, tuple[int, int]]:
    width, height = picture.size
    if width * height > options.max_pixels_decoded:
        raise TooLarge(f"{width}x{height} is more than {options.max_pixels_decoded} pixels (--max-pixels-decoded)")
    turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    if picture.format in ("JPEG", "MPO") and width * height > 4 * options.max_pixels:
        scale = (width * height / options.max_pixels) ** 0.5
        picture.draft(None, (int(width / scale), int(height / scale)))
    picture.load()  # of an animation, the first frame
    picture = ImageOps.exif_transpose(picture)
    return _rgb(picture), ((height, width) if turned else (width, height))


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
    if picture.mode.startswith("I;16"):
        return picture.convert("I").point(lambda value: value / 257).convert("L")
    low, high = picture.getextrema()
    if low >= 0 and high <= 255:
        return picture.convert("L")
    if picture.mode == "I" and low >= 0 and high <= 65535:
        return picture.point(lambda value: value / 257).convert("L")
    span = (high - low) or 1
    return picture.convert("F").point(lambda value: value * (255 / span) - low * 255 / span).convert("L")
