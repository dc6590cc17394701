"""Tiles that are left to the device: the processor's own, to the last bit."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from caption.engine import check, load_preparer, resample, tiles
from caption.engine.base import load
from caption.engine.collate import collate
from caption.engine.pixels import Ones, Packed
from caption.engine.resample import FILTERS, ORDERS, find_order, resized
from caption.engine.slots import SlotEngine
from caption.engine.tiles import Tiles

from .helpers import options, picture, pictures
from .test_slots import Request, texts

PLANNING = ("smolvlm", "idefics3")
SIZES = ((64, 48), (20, 80), (70, 40), (16, 16), (90, 1), (1, 1), (45, 17))


def prepared(folder: str, device: str, images, **settings) -> list[dict]:
    preparer = load_preparer(options(folder, device=device))
    return [preparer.prepare(image, **settings) for image in images]


def raw(array) -> np.ndarray:
    return array.made().raw if isinstance(array, Packed) else array


def test_weights_and_order_are_those_of_this_pillow():
    noise, order = np.random.default_rng(3), find_order()
    for number in range(150):
        height, width, rows, columns = (int(one) for one in noise.integers(1, 250, 4))
        kind = list(FILTERS)[number % 3]
        pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        ours = resized(pixels, rows, columns, kind, order(height, width, rows, columns))
        assert np.array_equal(ours, np.asarray(Image.fromarray(pixels).resize((columns, rows), kind)))


@pytest.mark.parametrize("name", PLANNING)
def test_a_plan_leads_to_the_bytes_of_the_processor(checkpoint, name):
    folder, images = checkpoint(name), [picture(number, *size) for number, size in enumerate(SIZES)]
    for planned, made in zip(prepared(folder, "cuda", images), prepared(folder, "cpu", images)):
        assert isinstance(planned["pixel_values"], Tiles) and isinstance(planned["pixel_attention_mask"], Ones)
        assert planned.keys() == made.keys()
        assert all(np.array_equal(raw(planned[key]), raw(made[key])) for key in made)
        assert planned["pixel_values"].levels == made["pixel_values"].levels


def test_a_plan_heeds_the_pixels_that_a_picture_may_have(checkpoint):
    folder, images = checkpoint("smolvlm"), [picture(0, 300, 200)]
    assert type(prepared(folder, "cuda", images)[0]["pixel_values"]) is Packed
    [planned], [made] = (prepared(folder, device, images, max_pixels=2000) for device in ("cuda", "cpu"))
    assert isinstance(planned["pixel_values"], Tiles) and planned["pixel_values"].raw.size <= 3 * 2000
    assert np.array_equal(raw(planned["pixel_values"]), raw(made["pixel_values"]))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "llava_next", "idefics2"])
def test_a_processor_that_does_something_else_goes_on_as_it_did(checkpoint, name):
    folder, images = checkpoint(name), pictures(3)
    for ours, theirs in zip(prepared(folder, "cuda", images), prepared(folder, "cpu", images)):
        assert all(type(ours[key]) is type(theirs[key]) for key in theirs)
        assert all(np.array_equal(raw(ours[key]), raw(theirs[key])) for key in theirs)


def test_a_picture_much_larger_than_its_tiles_is_cut_by_the_loader(checkpoint):
    [item] = prepared(checkpoint("smolvlm"), "cuda", [picture(0, 2000, 1500)])
    assert type(item["pixel_values"]) is Packed


def test_another_pillow_gets_no_plan(checkpoint, monkeypatch):
    monkeypatch.setattr(resample, "ORDERS", [lambda *sizes, order=order: not order(*sizes) for order in ORDERS])
    find_order.cache_clear()
    try:
        assert find_order() is None
        [item] = prepared(checkpoint("smolvlm"), "cuda", [picture(0)])
    finally:
        find_order.cache_clear()
    assert type(item["pixel_values"]) is Packed


def test_a_plan_that_fails_its_trial_is_not_taken(checkpoint, monkeypatch):
    original = tiles.Tiles.made

    def wrong(self):
        made = original(self)
        made.raw[..., 0] ^= 1
        return made

    monkeypatch.setattr(tiles.Tiles, "made", wrong)
    [item] = prepared(checkpoint("smolvlm"), "cuda", [picture(0)])
    assert type(item["pixel_values"]) is Packed


@pytest.mark.parametrize("name", PLANNING)
def test_captions_of_planned_pictures_are_those_of_made_ones(checkpoint, name):
    """Unlike numbers of tiles in a batch, and masks that are left to the model."""
    settings = options(checkpoint(name), batch_size=4, max_new_tokens=6)
    loaded, images = load(settings), [picture(number, *size) for number, size in enumerate((*SIZES, (300, 200)))]
    planned, made = (
        [Request(key, inputs, key) for key, inputs in enumerate(prepared(settings.model, device, images))]
        for device in ("cuda", "cpu")
    )
    assert len({(type(one.inputs["pixel_values"]), one.inputs["pixel_values"].shape) for one in planned}) > 2
    assert "pixel_attention_mask" not in collate([one.inputs for one in planned], 0, "left", "cpu", loaded.dtype)
    assert texts(SlotEngine(settings, loaded), planned) == texts(SlotEngine(settings, loaded), made)


@pytest.mark.parametrize(
    ("kernels", "device", "said"), [(None, "cuda", True), (object(), "cuda", False), (None, "cpu", False)]
)
def test_an_engine_whose_tiles_the_cpu_must_cut_says_so(monkeypatch, kernels, device, said):
    model = SimpleNamespace(config=SimpleNamespace(model_type="smolvlm"))
    monkeypatch.setattr(check, "load", lambda options: SimpleNamespace(model=model))
    monkeypatch.setattr(check, "_fastest", lambda options, loaded: SimpleNamespace(fallback=None))
    monkeypatch.setattr(check, "tile_kernels", lambda device: kernels)
    fallback = check.load_fastest(options("", device=device)).fallback
    assert ("tiles are cut by the worker's CPU" in (fallback or "")) == said
