"""Image: an upright RGB picture with the right colours, or one of the documented reasons."""

import errno
import io
import os
import random
import resource
import socket
import struct
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features

import caption.image
from caption.errors import EmptyFile, ItemError, NotAFile, NotAnImage, TooLarge, Truncated, Unreadable, Vanished
from caption.image import DecodeOptions, read_image

OPTIONS = DecodeOptions(max_pixels=1_000_000, max_pixels_decoded=20_000_000)
RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 40), (20, 40, 210), (130, 130, 130)
AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
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


# ---- reasons why not ----


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", pytest.param("AVIF", marks=AVIF)])
def test_truncated(tmp_path, format):
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    path = save(tmp_path / "x.jpg", noise, format)
    os.truncate(path, os.path.getsize(path) * 2 // 3)
    with pytest.raises((Truncated, NotAnImage)) as raised:
        read(path)
    if format in ("JPEG", "PNG"):
        assert raised.type is Truncated


def test_zero_bytes(tmp_path):
    (tmp_path / "x.jpg").touch()
    with pytest.raises(EmptyFile):
        read(tmp_path / "x.jpg")


@pytest.mark.parametrize("content", [b"I am a text\n" * 50, b"<html>404</html>", b"\0", b"\xff\xd8", bytes(1000)])
def test_content_that_is_no_picture(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(NotAnImage):
        read(tmp_path / "x.jpg")


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def patched(format, find, replace):
    """A small picture whose header tells another size."""
    file = io.BytesIO()
    Image.new("RGB", (77, 33), RED).save(file, format)
    data = file.getvalue()
    assert data.count(find) == 1
    return data.replace(find, replace)


def webp_header():
    """The canvas of an animation can be larger than its frames."""
    file = io.BytesIO()
    frames = [Image.new("RGB", (77, 33), colour) for colour in (RED, BLUE)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    data = bytearray(file.getvalue())
    canvas = data.index(b"VP8X") + 12
    data[canvas : canvas + 6] = (16_382).to_bytes(3, "little") * 2
    return bytes(data)


BOMBS = {
    "WEBP": webp_header,
    "PNG": lambda: png_header(100_000, 100_000),
    "JPEG": lambda: patched("JPEG", struct.pack(">HH", 33, 77), struct.pack(">HH", 65_000, 65_000)),
    "BMP": lambda: patched("BMP", struct.pack("<ii", 77, 33), struct.pack("<ii", 200_000, 200_000)),
    "GIF": lambda: b"GIF89a" + struct.pack("<HHBBB", 65_000, 65_000, 0, 0, 0)
    + b"\x2c" + struct.pack("<HHHHB", 0, 0, 65_000, 65_000, 0) + b"\x02\x02\x4c\x01\0;",
}  # fmt: skip


@pytest.mark.parametrize("format", BOMBS)
def test_pixel_bomb_is_refused_by_its_header_without_room_for_its_pixels(tmp_path, format):
    path = tmp_path / "x.jpg"
    path.write_bytes(BOMBS[format]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooLarge, match="--max-pixels-decoded"):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; the pixels are 10 GB


def test_bound_of_pixels_is_the_users(tmp_path):
    path = save(tmp_path / "x.png", quadrants(), "PNG")
    assert read(path, DecodeOptions(10**6, 64 * 32))[1] == (64, 32)
    with pytest.raises(TooLarge, match=r"64x32.*2047"):
        read(path, DecodeOptions(10**6, 64 * 32 - 1))


def test_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    ended = []
    thread = threading.Thread(target=lambda: ended.append(reason(tmp_path / "x.jpg")), daemon=True)
    thread.start()
    thread.join(5)
    assert ended == [NotAFile]


def reason(path):
    try:
        return read(path)
    except ItemError as error:
        return type(error)


def test_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the address of a socket has 108 bytes at most
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("x.jpg")
        with pytest.raises(NotAFile):
            read("x.jpg")


def test_device_is_not_even_opened(monkeypatch):
    """Opening can be a command to it: rewind the tape, start the watchdog."""
    opened, open_ = [], os.open
    monkeypatch.setattr(os, "open", lambda *args, **options: opened.append(args) or open_(*args, **options))
    with pytest.raises(NotAFile):
        read("/dev/null")
    assert opened == []


def test_pipe_that_takes_the_files_place_before_it_is_opened(tmp_path, monkeypatch):
    path, other = save(tmp_path / "x.png", quadrants(), "PNG"), tmp_path / "pipe"
    os.mkfifo(other)
    open_ = os.open
    monkeypatch.setattr(os, "open", lambda name, flags: open_(other, flags))
    with pytest.raises(NotAFile):
        read(path)


def test_folder_called_like_a_picture(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(NotAFile):
        read(tmp_path / "x.jpg")


def test_dangling_link(tmp_path):
    (tmp_path / "x.jpg").symlink_to("nowhere")
    with pytest.raises(Vanished):
        read(tmp_path / "x.jpg")


def test_link_to_itself(tmp_path):
    (tmp_path / "x.jpg").symlink_to("x.jpg")
    with pytest.raises(ItemError):
        read(tmp_path / "x.jpg")


@pytest.mark.parametrize("where", ["gone.jpg", "file/x.jpg", "nul\0.jpg", "\ud800.jpg"])
def test_file_that_is_not_there(tmp_path, where):
    (tmp_path / "file").write_bytes(b"the folder has become a file")
    with pytest.raises(Vanished):
        read(f"{tmp_path}/{where}")


def test_file_that_vanishes_between_the_look_and_the_opening(tmp_path, monkeypatch):
    path, open_ = save(tmp_path / "x.png", quadrants(), "PNG"), os.open

    def too_late(*args):
        os.unlink(path)
        return open_(*args)

    monkeypatch.setattr(os, "open", too_late)
    with pytest.raises(Vanished):
        read(path)


def test_unreadable_permission(tmp_path):
    path = save(tmp_path / "x.png", quadrants(), "PNG")
    os.chmod(path, 0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(Unreadable, match="Permission denied"):
        read(path)


@pytest.mark.parametrize("good", [0, 100])
def test_error_of_the_disk_may_pass_and_says_nothing_about_the_picture(tmp_path, monkeypatch, good):
    """The file gives an I/O error after its first bytes, as a failing disk or a lost network drive does."""
    path = save(tmp_path / "x.png", Image.effect_noise((200, 200), 90), "PNG")

    class Failing(io.FileIO):
        def read(self, size=-1):
            if self.tell() >= good:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode: Failing(descriptor))
    with pytest.raises(Unreadable, match="Input/output error"):
        read(path)


def test_not_enough_memory_is_too_large(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", quadrants(), "PNG")

    def load(self):
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(TooLarge):
        read(path)


def test_name_that_is_no_utf8(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9\n'.png")
    with open(path, "wb") as file:
        quadrants().save(file, "PNG")
    assert read(os.fsdecode(path))[1] == (64, 32)


def test_no_descriptor_stays_open(tmp_path):
    (tmp_path / "text.jpg").write_bytes(b"text")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    save(tmp_path / "good.jpg", quadrants(), "TIFF")
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else 0
    for name in os.listdir(tmp_path):
        try:
            read(tmp_path / name)
        except ItemError:
            pass
    assert (len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else 0) == before


# ---- whatever bytes ----


def samples():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    kinds = [
        ("JPEG", "RGB", {"exif": exif}), ("JPEG", "CMYK", {}), ("JPEG", "L", {"progressive": True}),
        ("PNG", "RGB", {"exif": exif}), ("PNG", "P", {"transparency": 0}), ("PNG", "I;16", {}), ("GIF", "P", {}),
        ("WEBP", "RGB", {"exif": exif}), ("WEBP", "RGBA", {"lossless": True}), ("BMP", "RGB", {}), ("BMP", "P", {}),
        ("TIFF", "RGB", {"exif": exif}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "F", {}),
        ("TIFF", "1", {"compression": "group4"}), ("MPO", "RGB", {"save_all": True}),
    ]  # fmt: skip
    if features.check("avif"):
        kinds.append(("AVIF", "RGB", {"exif": exif}))
    for format, mode, options in kinds:
        file = io.BytesIO()
        grey = quadrants(24, 16).convert("L")
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else None
        more = {"append_images": [grey]} if format == "MPO" else {}
        (picture or quadrants(24, 16, mode)).save(file, format, **options, **more)
        yield f"{format}-{mode}-{len(options)}", file.getvalue()


SAMPLES = dict(samples())


@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_bytes_give_a_picture_or_a_reason(tmp_path, name):
    """Bits flipped, bytes set, pieces cut out and doubled: 100 times each kind, the same ones in every run."""
    chance, path = random.Random(name), tmp_path / "x.jpg"
    assert isinstance(attempt(path, SAMPLES[name]), Image.Image)
    for _ in range(100):
        data = bytearray(SAMPLES[name])
        for _ in range(chance.choice((1, 1, 2, 5, 20))):
            place = chance.randrange(min(len(data), chance.choice((40, 10**9))))
            kind = chance.randrange(4)
            if kind == 0:
                data[place] ^= 1 << chance.randrange(8)
            elif kind == 1:
                data[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            elif kind == 2:
                del data[place : place + chance.randrange(1, 9)]
            else:
                data[place:place] = data[place : place + chance.randrange(1, 9)]
            data = data or bytearray(1)
        attempt(path, bytes(data))


def attempt(path, data):
    """The picture, or the ItemError; anything else fails the test."""
    path.write_bytes(data)
    try:
        return read(path, DecodeOptions(100, 100_000))[0]
    except ItemError as error:
        return error


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*",
                     b"RIFF\0\0\0\0WEBP", b"\0\0\0\x20ftypavif"]),
    st.binary(max_size=200),
)  # fmt: skip
def test_any_bytes_give_a_picture_or_a_reason(tmp_path_factory, magic, rest):
    attempt(tmp_path_factory.getbasetemp() / "any.jpg", magic + rest)
