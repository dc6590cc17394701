"""Cost: pixels by whatever way is cheap, prompt and length; never an error, a wait or another caption."""

import os
import time

import pytest
from PIL import Image

from caption import cost
from caption.cost import Cost, estimator
from caption.item import Item
from caption.settings import Settings
from caption.where import ParquetCell, Part

SETTINGS = Settings(input="in", output="out", prompt="", max_new_tokens=1, max_pixels=1_000_000)


def costs(*items, settings=SETTINGS):
    return [item.cost for item in Cost(settings).estimated(list(items))]


def item(where, **fields):
    return Item(0, "id", "id", where, 0, **fields)


def picture(folder, width, height, ending="jpg", **options):
    path = folder / f"{width}x{height}.{ending}"
    Image.effect_noise((width, height), 50).convert("RGB").save(path, **options)
    return str(path)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif", "bmp", "avif"])
def test_pixels_come_from_the_header_whatever_the_file_weighs(tmp_path, ending):
    wide, small = picture(tmp_path, 280, 140, ending), picture(tmp_path, 28, 28, ending)
    os.truncate(wide, min(os.path.getsize(wide), 2000))
    assert costs(item(wide), item(small)) == [51, 2]  # 50 and 1 tokens to read, 1 to write


def test_what_a_camera_puts_before_the_picture_does_not_hide_its_size(tmp_path):
    exif = Image.Exif()
    exif[0x9286] = "x" * 20_000
    assert costs(item(picture(tmp_path, 280, 280, exif=exif))) == [101]


def test_a_row_that_names_its_size_needs_no_file():
    rows = [{"width": 280, "height": 140}, {"WIDTH": "280", "HEIGHT": "280"}, {"width": None, "height": 3}, {"w": 5}]
    assert costs(*(item("/nowhere.jpg", extra=row) for row in rows)) == [51, 101, 1, 1]


def test_larger_pictures_cost_what_they_are_scaled_down_to():
    small = Settings(input="in", output="out", prompt="", max_new_tokens=1, max_pixels=784)
    assert costs(item("/nowhere.jpg", extra={"width": 5000, "height": 5000}), settings=small) == [2]


def test_prompt_and_length_count_the_items_own_before_the_runs():
    settings = Settings(input="in", output="out", prompt="12345678", max_new_tokens=100)
    asked = [item("/a"), item("/a", prompt="1234"), item("/a", max_new_tokens=7), item("/a", prompt="")]
    assert costs(*asked, settings=settings) == [102, 101, 9, 100]


def test_files_without_a_header_that_is_known_count_by_their_bytes(tmp_path):
    for name, size in (("large.jpg", 7840), ("small.jpg", 784), ("empty.jpg", 0)):
        (tmp_path / name).write_bytes(bytes(size))
    large, small, empty, gone = (item(str(tmp_path / f"{name}.jpg")) for name in ("large", "small", "empty", "gone"))
    assert costs(large, small, empty, gone) == [11, 2, 1, 1]


def test_without_the_library_files_count_by_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "imagesize", None)
    path = picture(tmp_path, 28, 28)
    assert costs(item(path)) == [os.path.getsize(path) / 784 + 1]


def test_a_pipe_with_the_name_of_a_picture_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    begin = time.monotonic()
    assert costs(item(str(tmp_path / "pipe.jpg")), item(str(tmp_path / "folder.jpg")), item("/a\0b")) == [1, 1, 1]
    assert time.monotonic() - begin < 1


def test_on_a_slow_disk_the_rest_counts_as_the_average(tmp_path, monkeypatch):
    paths = [picture(tmp_path, 28 * number, 28) for number in (1, 3, 50)]
    looked = []

    def slow(path):
        looked.append(path)
        monkeypatch.setattr(cost.time, "monotonic", lambda: begin + 2 * (len(looked) >= 2))
        return real(path)

    begin, real = time.monotonic(), cost._in_file
    monkeypatch.setattr(cost, "_in_file", slow)
    assert costs(*map(item, paths)) == [2, 4, 3]
    assert looked == paths[:2]


def test_pictures_in_tars_and_tables_have_no_cost_and_so_keep_the_order_in_which_they_are_read():
    size = {"width": 10, "height": 10}
    inside = [item(Part("a.tar", 512, 9000)), item(ParquetCell("a.parquet", 0, 1, "image"), extra=size, prompt="long")]
    assert costs(*inside) == [0, 0]


def test_only_the_dynamic_schedule_looks(tmp_path):
    given = [item(picture(tmp_path, 28, 28))]
    for schedule, looks in (("dynamic", True), ("round-robin", False), ("lockstep", False)):
        found = estimator(Settings(input="in", output="out", schedule=schedule))(given)
        assert bool(found[0].cost) == looks
        assert found[0]._replace(cost=0.0) == given[0]
