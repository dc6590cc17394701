"""Image: an upright RGB picture with the right colours, from whatever a file holds."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features

import caption.image
from caption.errors import NotAnImage
from caption.image import DecodeOptions
from tests.pictures import BLUE, GREEN, GREY, LOSSY, RED, corners, near, quadrants, read, save

AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


# ---- upright ----

TURN_BACK = {  # what a camera stored, so that the orientation makes quadrants() of it again
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def stored(orientation, width=64, height=32):
    turn = TURN_BACK[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return quadrants(width, height) if turn is None else quadrants(width, height).transpose(turn), exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=AVIF)])
def test_exif_orientation_is_applied_and_the_size_is_the_upright_one(tmp_path, format, orientation):
    picture, exif = stored(orientation)
    got, size = read(save(tmp_path / "x", picture, format, exif=exif))
    assert got.size == size == (64, 32)
    assert near(corners(got), [RED, GREEN, BLUE, GREY], LOSSY)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_reduced_jpeg_is_upright_and_reports_the_original_size(tmp_path, orientation):
    picture, exif = stored(orientation, 1600, 1200)
    path = save(tmp_path / "x.jpg", picture, "JPEG", exif=exif)
    got, size = read(path, DecodeOptions(max_pixels=100_000, max_pixels_decoded=10**7))
    assert size == (1600, 1200)
    assert got.size == (400, 300)
    assert near(corners(got), [RED, GREEN, BLUE, GREY], LOSSY)


def test_orientation_written_behind_the_pixels_of_a_png_is_applied(tmp_path):
    picture, exif = stored(6)
    path = save(tmp_path / "x.png", picture, "PNG")
    data = (tmp_path / "x.png").read_bytes()
    end = data.index(b"IEND") - 4
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "x.png").write_bytes(data[:end] + chunk + data[end:])
    got, size = read(path)
    assert got.size == size == (64, 32)
    assert near(corners(got), [RED, GREEN, BLUE, GREY])


@pytest.mark.parametrize("exif", [b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_broken_metadata_do_not_cost_the_picture(tmp_path, format, exif):
    got, _ = read(save(tmp_path / "x", quadrants(), format, exif=b"Exif\0\0" + exif))
    assert near(corners(got), [RED, GREEN, BLUE, GREY], LOSSY)


def test_unknown_orientation_is_none(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    assert read(save(tmp_path / "x.jpg", quadrants(), "JPEG", exif=exif))[1] == (64, 32)


# ---- every mode as RGB ----


def test_palette(tmp_path):
    for format in ("PNG", "GIF", "BMP", "TIFF"):
        got, _ = read(save(tmp_path / "x", quadrants().quantize(16), format))
        assert near(corners(got), [RED, GREEN, BLUE, GREY], 8)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_with_transparency_lies_on_white(tmp_path, format):
    picture = Image.new("P", (64, 32), 1)
    picture.putpalette([0, 0, 0, *RED, *GREEN])
    picture.paste(0, (32, 0, 64, 32))  # black in the palette, but transparent
    got, _ = read(save(tmp_path / "x", picture, format, transparency=0))
    assert near(corners(got), [RED, (255, 255, 255)] * 2)


def test_palette_with_a_part_of_transparency_each(tmp_path):
    picture = Image.new("P", (64, 32), 1)
    picture.putpalette([0, 0, 0, *RED])
    picture.paste(0, (32, 0, 64, 32))
    got, _ = read(save(tmp_path / "x.png", picture, "PNG", transparency=bytes([128, 255])))
    assert near(corners(got), [RED, (127, 127, 127)] * 2)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=AVIF)])
def test_rgba_lies_on_white(tmp_path, format):
    picture = quadrants(mode="RGBA")
    picture.putalpha(Image.new("L", picture.size, 255))
    picture.paste((0, 0, 0, 0), (32, 0, 64, 16))
    options = {"lossless": True} if format == "WEBP" else {}
    got, _ = read(save(tmp_path / "x", picture, format, **options))
    assert near(corners(got), [RED, (255, 255, 255), BLUE, GREY], LOSSY)


def test_grey_with_alpha_lies_on_white(tmp_path):
    picture = Image.new("LA", (64, 32), (90, 255))
    picture.paste((0, 0), (32, 0, 64, 32))
    got, _ = read(save(tmp_path / "x.png", picture, "PNG"))
    assert near(corners(got), [(90, 90, 90), (255, 255, 255)] * 2)


@pytest.mark.parametrize(("mode", "colour"), [("RGB", RED), ("L", 77)])
def test_one_colour_declared_transparent_lies_on_white(tmp_path, mode, colour):
    picture = Image.new(mode, (64, 32), colour)
    picture.paste(GREEN if mode == "RGB" else 0, (0, 0, 32, 32))
    got, _ = read(save(tmp_path / "x.png", picture, "PNG", transparency=colour))
    assert near(corners(got), [GREEN if mode == "RGB" else (0, 0, 0), (255, 255, 255)] * 2)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(tmp_path, format):
    got, _ = read(save(tmp_path / "x", quadrants(mode="CMYK"), format))
    assert near(corners(got), [RED, GREEN, BLUE, GREY], LOSSY)


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_other_colour_spaces_in_tiff(tmp_path, mode):
    picture = Image.new("LAB", (64, 32), (136, 208 - 128, 195 - 128)) if mode == "LAB" else quadrants(mode=mode)
    got, _ = read(save(tmp_path / "x.tif", picture, "TIFF"))
    assert got.size == (64, 32)
    if mode == "YCbCr":
        assert near(corners(got), [RED, GREEN, BLUE, GREY], LOSSY)


def steps(dtype, values):
    """Four quarters of these values."""
    array = np.empty((32, 64), dtype)
    array[:16, :32], array[:16, 32:], array[16:, :32], array[16:, 32:] = values
    return Image.fromarray(array)


def greys(picture):
    got = corners(picture)
    assert all(red == green == blue for red, green, blue in got)
    return [red for red, _, _ in got]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_cut(tmp_path, format):
    got, _ = read(save(tmp_path / "x", steps(np.uint16, [0, 16384, 32768, 65535]), format))
    assert near(greys(got), [0, 64, 128, 255])


def test_big_endian_sixteen_bit_tiff(tmp_path):
    picture = steps(">u2", [0, 16384, 32768, 65535])
    assert picture.mode == "I;16B"
    got, _ = read(save(tmp_path / "x.tif", picture, "TIFF"))
    assert near(greys(got), [0, 64, 128, 255])


@pytest.mark.parametrize(
    ("dtype", "values", "wanted"),
    [
        (np.int32, [0, 64, 128, 255], [0, 64, 128, 255]),
        (np.int32, [0, 16384, 32768, 65535], [0, 64, 128, 255]),
        (np.int32, [-1000, -500, 0, 1000], [0, 64, 128, 255]),
        (np.int32, [7, 7, 7, 7], [7, 7, 7, 7]),
        (np.int32, [-9, -9, -9, -9], [0, 0, 0, 0]),
        (np.float32, [0, 0.25, 0.5, 1], [0, 64, 128, 255]),
        (np.float32, [0, 64, 128, 255], [0, 64, 128, 255]),
        (np.float32, [-1, -0.5, 0, 1], [0, 64, 128, 255]),
        (np.float32, [0, 1e6, 2e6, 4e6], [0, 64, 128, 255]),
        (np.float32, [np.nan, 0.25, 0.5, 1], [0, 64, 128, 255]),
        (np.float32, [-np.inf, 0.25, 0.5, np.inf], [0, 64, 128, 0]),
        (np.float32, [np.nan] * 4, [0] * 4),
    ],
)
def test_wide_integers_and_floats_keep_their_contrast(tmp_path, dtype, values, wanted):
    got, _ = read(save(tmp_path / "x.tif", steps(dtype, values), "TIFF"))
    assert near(greys(got), wanted)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_one_bit(tmp_path, format):
    picture = Image.new("1", (64, 32), 0)
    picture.paste(1, (32, 0, 64, 32))
    assert greys(read(save(tmp_path / "x", picture, format))[0]) == [0, 255] * 2


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", pytest.param("AVIF", marks=AVIF)])
def test_animation_gives_its_first_frame(tmp_path, format):
    frames = [quadrants(), Image.new("RGB", (64, 32), "white"), Image.new("RGB", (64, 32), "black")]
    got, size = read(save(tmp_path / "x", frames[0], format, save_all=True, append_images=frames[1:]))
    assert size == (64, 32)
    assert near(corners(got), [RED, GREEN, BLUE, GREY], LOSSY)


@pytest.mark.parametrize("budget", [10**6, 2_000])
def test_jpeg_with_several_pictures_gives_the_first(tmp_path, budget):
    second = Image.new("RGB", (256, 128))
    path = save(tmp_path / "x.jpg", quadrants(256, 128), "MPO", save_all=True, append_images=[second])
    got, size = read(path, DecodeOptions(budget, 10**7))
    assert size == (256, 128)
    assert near(corners(got), [RED, GREEN, BLUE, GREY], LOSSY)


@pytest.mark.parametrize("ending", ["jpg", "gif", "tiff"])
def test_the_content_counts_not_the_ending(tmp_path, ending):
    got, _ = read(save(tmp_path / f"x.{ending}", quadrants(), "PNG"))
    assert corners(got) == [RED, GREEN, BLUE, GREY]


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (3, 2)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("budget", [10**6, 100])
def test_extreme_sizes(tmp_path, size, format, budget):
    got, reported = read(save(tmp_path / "x", Image.new("RGB", size, RED), format), DecodeOptions(budget, 10**7))
    assert reported == size
    assert near(got.getpixel((0, 0)), RED, LOSSY)


def test_long_text_in_a_png_does_not_cost_the_picture(tmp_path):
    """Picture generators put whole workflows there, more than Pillow takes by itself."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "node " * 1_000_000, zip=True)
    got, _ = read(save(tmp_path / "x.png", quadrants(), "PNG", pnginfo=info))
    assert corners(got) == [RED, GREEN, BLUE, GREY]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 5000))
def test_reduced_jpeg_has_at_least_the_pixels_asked_for(width, height, budget):
    file = io.BytesIO()
    Image.new("L", (width, height), 99).save(file, "JPEG")
    picture = Image.open(io.BytesIO(file.getvalue()), formats=["JPEG"])
    got, size = caption.image._upright_rgb(picture, DecodeOptions(budget, 10**6))
    assert size == (width, height)
    assert got.width * got.height >= min(budget, width * height)


def test_image_open_always_gets_the_formats(tmp_path, monkeypatch):
    """Pillow knows formats that start programs (EPS) or that nobody tests."""
    seen, open_ = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **options: seen.append(options) or open_(*args, **options))
    read(save(tmp_path / "x.png", quadrants(), "PNG"))
    assert set(seen[0]["formats"]) <= {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"}
    assert {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"} <= set(seen[0]["formats"])


@pytest.mark.parametrize("format", ["EPS", "PPM", "TGA", "ICO", "PDF"])
def test_formats_outside_the_list_are_refused(tmp_path, format):
    with pytest.raises(NotAnImage):
        read(save(tmp_path / "x.jpg", quadrants(), format))
