"""A model's identity: it follows every byte of its files, and a large file is read once."""

import pytest

from caption import model


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
