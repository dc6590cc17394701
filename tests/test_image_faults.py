"""Image: one of the documented reasons for each file that gives no picture, and nothing else, whatever its bytes."""

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

from caption.errors import EmptyFile, ItemError, NotAFile, NotAnImage, TooLarge, Truncated, Unreadable, Vanished
from caption.image import DecodeOptions
from tests.pictures import BLUE, RED, quadrants, read, save

AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")



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
