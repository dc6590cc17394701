"""Adapter: which one an image wants, and what files can't be one, said in a sentence without loading them."""

import json
import struct

import pytest

from caption.adapter import CONFIG, WEIGHTS, AdapterCheck, Adapters, check, identity, locate
from caption.engine import Adapter
from caption.errors import AdapterNotFound
from caption.item import Item

RUN = Adapter("/adapters/run", 0.7)


def item(**fields):
    return Item(0, "a.png", "a.png", "/in/a.png", 0, **fields)


def tensors(*names):
    """A safetensors file of these one-number tensors."""
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)}
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(4 * len(names))


GOOD = tensors("base_model.model.x.lora_A.weight", "base_model.model.x.lora_B.weight")


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [({}, RUN), ({"lora": "fr"}, Adapter("/tables/fr", 0.5)), ({"lora": "/b", "lora_scale": 2.0}, Adapter("/b", 2.0)),
     ({"lora_scale": 2.0}, Adapter("/adapters/run", 2.0)), ({"lora_scale": 0.0}, None),
     ({"lora": "fr", "lora_scale": 0.0}, None)],
)  # fmt: skip
def test_the_adapter_of_an_image(fields, wanted):
    assert Adapters(RUN, 0.5, "/tables").of(item(**fields)) == wanted


def test_a_scale_without_an_adapter_is_the_bare_model():
    assert Adapters().of(item(lora_scale=2.0)) is None


def test_a_whole_adapter_is_one(tmp_path):
    (tmp_path / WEIGHTS).write_bytes(GOOD)
    (tmp_path / CONFIG).write_text('{"peft_type": "LORA"}')
    check(str(tmp_path))
    check(str((tmp_path / WEIGHTS).rename(tmp_path / "one.safetensors")))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("a.safetensors", b"", "no safetensors file"), ("a.safetensors", b"\xff" * 40, "no safetensors file"),
     ("a.safetensors", b"no safetensors at all, and long enough", "no safetensors file"),
     ("a.safetensors", struct.pack("<Q", 4) + b"[1] ", "no safetensors file"),
     ("a.safetensors", GOOD[:-1], "cut off"), ("a.safetensors", GOOD + b"x", "cut off"),
     ("a.safetensors", tensors("lora_unet_x.lora_down.weight"), "kohya"),
     ("a.safetensors", tensors("model.norm.weight"), "no LoRA in peft's layout"),
     ("a.bin", b"\x80\x04.", "pickle"), ("a.txt", b"text", "no safetensors file")],
)  # fmt: skip
def test_a_file_that_is_no_adapter(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AdapterNotFound, match=said):
        check(str(tmp_path / name))


@pytest.mark.parametrize(
    ("files", "said"),
    [({}, "holds no LoRA"), ({CONFIG: b"{"}, "not valid JSON"), ({CONFIG: b"[]"}, "not valid JSON"),
     ({CONFIG: b'{"peft_type": "LOHA"}', WEIGHTS: GOOD}, "type LOHA"),
     ({CONFIG: b'{"peft_type": "LORA"}'}, f"has no {WEIGHTS}"),
     ({CONFIG: b'{"peft_type": "LORA"}', "adapter_model.bin": b""}, "pickle"),
     ({CONFIG: b'{"peft_type": "LORA"}', WEIGHTS: GOOD[:50]}, "safetensors|cut off")],
)  # fmt: skip
def test_a_folder_that_is_no_adapter(tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AdapterNotFound, match=said):
        check(str(tmp_path))


def test_each_adapter_is_looked_at_once_and_only_its_images_are_marked(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr("caption.adapter.check", lambda place: looked.append(place) or check(place))
    monkeypatch.setattr("caption.adapter.need_peft", lambda reason: None)
    (tmp_path / "good.safetensors").write_bytes(GOOD)
    marked = AdapterCheck(Adapters(root=str(tmp_path)))
    for _ in range(3):
        items = marked.mark([item(), item(lora="good.safetensors"), item(lora="none"), item(lora="none")])
        assert [one.fault and one.fault[0] for one in items] == [None, None, "AdapterUnusable", "AdapterUnusable"]
    assert looked == [str(tmp_path / "good.safetensors"), str(tmp_path / "none")]


def test_what_an_adapter_is_does_not_depend_on_where_it_lies(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).write_bytes(GOOD)
        (tmp_path / name / CONFIG).write_text('{"peft_type": "LORA", "r": 4}')
    a, b = (str(tmp_path / name) for name in "ab")
    assert identity(a) == identity(b) == identity(locate(f"{a}/{WEIGHTS}"))
    (tmp_path / "b" / CONFIG).write_text('{"peft_type": "LORA", "r": 8}')
    assert identity(a) != identity(b)
