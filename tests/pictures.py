"""A picture of which no two orientations and no two colours look alike, and how to look at what became of it."""

import numpy as np
from PIL import Image

from caption.image import DecodeOptions, read_image

OPTIONS = DecodeOptions(max_pixels=1_000_000, max_pixels_decoded=20_000_000)
RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 40), (20, 40, 210), (130, 130, 130)
LOSSY = 30  # a channel's error that JPEG and chroma subsampling may make inside a flat area


def quadrants(width=64, height=32, mode="RGB"):
    """Red, green / blue, grey: no two orientations of it look alike."""
    picture = Image.new("RGB", (width, height))
    for colour, x, y in ((RED, 0, 0), (GREEN, 1, 0), (BLUE, 0, 1), (GREY, 1, 1)):
        picture.paste(colour, (x * width // 2, y * height // 2, (x + 1) * width // 2, (y + 1) * height // 2))
    return picture.convert(mode)


def corners(picture):
    """The colours in the middle of the four quarters, row by row."""
    width, height = picture.size
    return [picture.getpixel((x * width // 4, y * height // 4)) for y in (1, 3) for x in (1, 3)]


def near(got, wanted, tolerance=2):
    return np.abs(np.array(got, int) - np.array(wanted, int)).max() <= tolerance


def save(path, picture, format, **options):
    picture.save(path, format, **options)
    return str(path)


def read(path, options=OPTIONS):
    picture, size = read_image(str(path), options)
    assert picture.mode == "RGB"
    picture.tobytes()  # all of it is there, the file being closed
    return picture, size
