"""Pictures as Python callers give them: each comes to a loader as its file would."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from caption import CaptionPool
from caption.errors import Truncated, Unreadable
from caption.given import GivenPictures, PictureMemory
from caption.image import DecodeOptions, read_image
from caption.where import Shared
from tests.pictures import OPTIONS, corners, near, quadrants, save
from tests.runs import ROOT, own_workers


@pytest.fixture
def memory():
    memory = PictureMemory()
    yield memory
    memory.close()


def given(memory, *images, options=OPTIONS):
    return list(GivenPictures(images, memory, options).pictures())


def seen(picture):
    """What a loader makes of it."""
    return read_image(picture.where, OPTIONS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["path", "opened", "loaded", "bytes", "datasets"])
def test_each_form_is_upright_and_equal_to_its_file(memory, tmp_path, orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", quadrants(), "PNG", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    forms = {
        "path": tmp_path / "a.png", "opened": Image.open(path), "loaded": Image.open(path).copy(),
        "bytes": bytearray(data), "datasets": {"bytes": data, "path": "gone.png"},
    }  # fmt: skip
    [picture] = given(memory, {"image": forms[form]})
    wanted, size = read_image(path, OPTIONS)
    got, got_size = seen(picture)
    assert got.tobytes() == wanted.tobytes() and got.size == wanted.size and got_size == size
    assert isinstance(picture.where, Shared) == (form != "path")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1", "LA", "I;16"])
def test_each_mode_is_the_rgb_that_its_file_would_be(memory, tmp_path, mode):
    picture = quadrants().convert("L").convert("I;16") if mode == "I;16" else quadrants(mode=mode)
    path = save(tmp_path / "a.tif", picture, "TIFF")
    assert seen(given(memory, picture)[0])[0].tobytes() == read_image(path, OPTIONS)[0].tobytes()


def test_arrays_are_pictures_of_height_times_width(memory):
    array = np.asarray(quadrants(64, 32))
    colour, sliced, grey, flat = given(memory, array, array[::2, ::2], array[:, :, 0], array[:, :, :1])
    assert seen(colour)[1] == (64, 32) and seen(sliced)[1] == (32, 16)
    assert all(near(a, b) for a, b in zip(corners(seen(colour)[0]), corners(quadrants())))
    assert seen(grey)[0].tobytes() == seen(flat)[0].tobytes()


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8),
                                   np.zeros(4, np.uint8), np.zeros((2, 4, 4, 3), np.uint8)])  # fmt: skip
def test_other_arrays_are_said_to_be_none(memory, array):
    [picture] = given(memory, array)
    assert picture.fault[0] == "NotAnImage" and str(array.dtype) in picture.fault[1]


def test_a_picture_that_does_not_load_is_a_fault_of_its_own(memory):
    whole = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(whole, "PNG")
    cut = Image.open(io.BytesIO(whole.getvalue()[:9000]))
    large = quadrants(300, 300)
    faults = [one.fault[0] for one in given(memory, cut, large, options=DecodeOptions(10_000, 80_000))]
    assert faults == ["Truncated", "TooLarge"]


def test_the_callers_picture_is_left_as_it_is(memory, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.jpg", quadrants(640, 320), "JPEG", exif=exif)
    with Image.open(path) as picture:
        given(memory, picture, options=DecodeOptions(1000, 10**6))
        assert picture.size == (640, 320) and picture.mode == "RGB" and picture.getexif()[0x0112] == 6


def test_a_relative_path_counts_from_where_the_caller_is_then(memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [picture] = given(memory, "sub/a.png")
    assert picture.where == str(tmp_path / "sub" / "a.png") and picture.id == "sub/a.png"


def test_memory_is_used_again_when_pictures_are_dropped(memory):
    for _ in range(50):
        places = [memory.put(bytes([n]) * 3_000_000) for n in range(10)]
        assert [where.read()[:1] for where in places] == [bytes([n]) for n in range(10)]
        for where in places:
            memory.drop(where)
    assert os.fstat(memory.descriptor).st_size <= 64 << 20


def test_memory_that_is_gone_is_an_error_of_the_item():
    memory = PictureMemory()
    where = memory.put(b"x" * 100)
    with pytest.raises(Truncated):
        where._replace(offset=10**12).read()
    memory.close()
    with pytest.raises(Unreadable):
        where.read()
    [picture] = given(memory, b"more")
    assert picture.fault[0] == "OutOfMemory"


def test_all_forms_of_a_scene_get_its_caption_also_after_a_worker_was_killed(tmp_path):
    draw = ROOT / "scripts" / "draw_shapes.py"
    subprocess.run([sys.executable, draw, tmp_path, "--count", "4", "--seed", "77"], check=True, capture_output=True)
    truth = {row["image"]: row["caption"] for row in map(json.loads, (tmp_path / "truth.jsonl").open())}
    paths = [tmp_path / name for name in truth]

    def forms():
        yield from paths
        yield from map(Image.open, paths)
        yield from (path.read_bytes() for path in paths)
        yield from (np.asarray(Image.open(path).convert("RGB")) for path in paths)

    with CaptionPool(model="shapes", device="cpu") as pool:
        first = [result.caption for result in pool.caption(forms())]
        assert first == 4 * list(truth.values())
        [worker] = own_workers()
        worker.kill()
        assert [result.caption for result in pool.caption(forms(), ordered=True)] == first
        [own] = pool.caption(paths[:1], max_new_tokens=3)
        assert (own.tokens, own.finish_reason, own.flags) == (3, "length", ("cut-off",))
        sizes = [(result.width, result.height) for result in pool.caption(map(Image.open, paths))]
        assert sizes == [Image.open(path).size for path in paths]
