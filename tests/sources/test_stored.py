"""Pictures in stores of objects, by their URLs; the store here is fsspec's own for local files."""

import json
import os

import fsspec
import pytest

from caption.errors import EmptyFile, InputError, UsageError, Vanished
from caption.image import read_image
from caption.options import read_settings
from caption.sources import open_source
from caption.urls import Url
from tests.pictures import OPTIONS, corners, near, quadrants
from tests.runs import captions, run


def url(path):
    return f"local://{path}"


@pytest.fixture
def stored(tmp_path):
    """A folder with pictures at three depths, and what is none."""
    for name in ("b.jpg", "a/2.PNG", "a/deep er/1.webp", "a-b.jpg", "notes.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name != "notes.txt":
            quadrants().save(path)
    (tmp_path / "in" / "notes.txt").write_text("none")
    return tmp_path / "in"


def test_a_folder_in_a_store_gives_the_ids_and_seeds_of_the_same_folder_on_disk(stored, tmp_path):
    there, here = (open_source(place, 7, tmp_path / "out") for place in (url(stored), stored))
    assert [(item.id, item.seed) for item in there.items()] == [(item.id, item.seed) for item in here.items()]
    assert [item.id for item in there.items()] == ["a-b.jpg", "a/2.PNG", "a/deep er/1.webp", "b.jpg"]
    assert (there.ignored, list(there.ignored_first)) == (1, ["notes.txt"])


def test_a_picture_is_read_from_where_it_is_stored(stored, tmp_path):
    [item] = open_source(url(stored), 0, tmp_path / "out").items(1)
    picture, size = read_image(item.where, OPTIONS)
    assert size == (64, 32)
    assert near(corners(picture), corners(quadrants()), 30)


@pytest.mark.parametrize("name", ["a::b.jpg", "memory::c.jpg", "d#1.jpg", "e?x=1.jpg", "f%20.jpg", "[g]*.jpg"])
def test_a_stored_picture_may_have_any_name(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text(name)
    [item] = open_source(url(tmp_path / "in"), 0, tmp_path / "out").items()
    assert item.where.read().decode() == name


def test_what_is_wrong_with_a_stored_picture_is_said_as_of_a_file(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(EmptyFile):
        Url(url(tmp_path / "empty.jpg")).read()
    with pytest.raises(Vanished):
        Url(url(tmp_path / "gone.jpg")).read()


def test_a_store_whose_package_is_missing_is_said_before_anything_is_captioned(monkeypatch, tmp_path):
    def missing(name):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UsageError, match="s3:// needs another package: Install s3fs"):
        open_source("s3://bucket/pictures", 0, tmp_path)


def test_a_table_in_a_store_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match="copy the table here"):
        open_source(url("/rows.jsonl"), 0, tmp_path)


def test_file_urls_are_paths(tmp_path):
    folder = tmp_path / "with space #1?"
    settings, _ = read_settings([f"file://{folder}".replace(" ", "%20"), "--output", str(tmp_path / "out")], {})
    assert settings.input == os.fspath(folder)


def test_a_table_on_disk_names_pictures_in_a_store(stored, tmp_path):
    rows = [{"image": "b.jpg"}, {"image": url(stored / "a/2.PNG")}, {"image": "http://x/y.jpg"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(open_source(tmp_path / "rows.jsonl", 0, tmp_path, {"image_root": url(stored)}).items())
    assert [item.id for item in found] == ["b.jpg", url(stored / "a/2.PNG"), "http://x/y.jpg"]
    assert [read_image(item.where, OPTIONS)[1] for item in found[:2]] == [(64, 32)] * 2
    assert found[2].fault[0] == "NotLocal"


def test_a_run_over_a_stored_folder_goes_on_where_it_was(stored, tmp_path):
    command = (url(stored), "--output", tmp_path / "out", "--model", "null")
    assert run(*command, "--limit", 2).returncode == 0
    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert "2 done before" in again.stdout and len(captions(tmp_path / "out")) == 4
