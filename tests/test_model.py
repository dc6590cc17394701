"""A model's identity: it follows every byte of its files, and a large file is read once."""

import pytest

from caption import model
from caption.engine import EngineOptions
from caption.errors import ModelNotFound
from caption.guard import GuardOptions
from caption.image import DecodeOptions
from caption.messages import Setup


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(model, "_PIECE", 1000)
    monkeypatch.setattr(model, "_READ", 300)
    monkeypatch.setattr(model, "_TICK", 0)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(250)) * 20)
    return folder


def identity(folder):
    return model.find_model(str(folder), None, False, False).identity


def test_a_changed_byte_of_any_piece_or_a_changed_name_is_another_model(folder):
    found = {identity(folder)}
    content = (folder / "model.safetensors").read_bytes()
    for at in (0, 299, 300, 999, 1000, 4999):
        changed = bytearray(content)
        changed[at] ^= 1
        (folder / "model.safetensors").write_bytes(changed)
        found.add(identity(folder))
    (folder / "model.safetensors").write_bytes(content + b"x")
    found.add(identity(folder))
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    found.add(identity(folder))
    assert len(found) == 9


def test_a_large_file_that_did_not_change_is_not_read_again(folder, monkeypatch):
    first = identity(folder)
    read = []
    hashed = model._file_hash
    monkeypatch.setattr(model, "_file_hash", lambda path, pool: read.append(path) or hashed(path, pool))
    assert identity(folder) == first
    assert [path.name for path in read] == ["config.json"]


def test_a_file_that_changed_a_moment_ago_is_read_again_because_its_times_may_hide_a_change(folder, monkeypatch):
    monkeypatch.setattr(model, "_TICK", 10**15)
    identity(folder)
    read = []
    monkeypatch.setattr(model, "_file_hash", lambda path, pool: read.append(path.name) or "00")
    identity(folder)
    assert read == ["config.json", "model.safetensors"]


def test_a_cache_that_can_not_be_read_or_written_changes_nothing(folder, monkeypatch):
    first = identity(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert identity(folder) == first


def setup(folder, identity, host="a node"):
    options = EngineOptions(str(folder), "fp32", "cpu", 8, "Describe it.", 16, model_identity=identity)
    return Setup("n1cpu0", options, 1, DecodeOptions(1, 1), 1.0, GuardOptions("Describe it."), host=host)


def test_a_node_takes_a_model_of_the_hub_at_the_same_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(model, "_download", lambda name, commit, patterns: tmp_path / name / commit)
    here = model.with_model_here(setup("/home/driver/snapshots/abc", "org/name commit abc"))
    assert here.options.model == str(tmp_path / "org/name" / "abc")


def test_a_node_that_does_not_get_the_model_says_so_in_its_last_words(monkeypatch):
    def refused(*_):
        raise ModelNotFound("the hub can't be reached", "check the network")

    monkeypatch.setattr(model, "_download", refused)
    with pytest.raises(SystemExit, match="the hub can't be reached: check the network"):
        model.with_model_here(setup("/home/driver/snapshots/abc", "org/name commit abc"))


def test_the_embedded_model_is_where_the_node_has_this_package():
    here = model.with_model_here(setup("/elsewhere/caption/models/shapes", "content 1234"))
    assert here.options.model == str(model.EMBEDDED["shapes"])


def test_a_worker_of_this_machine_and_one_that_sees_the_folder_look_for_nothing(tmp_path):
    for one in (setup("/gone", "org/name commit abc", host=""), setup(tmp_path, "content 1234")):
        assert model.with_model_here(one) == one
