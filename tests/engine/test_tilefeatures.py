"""Features of whole tiles, made without waits: the model's own."""

import functools

import pytest
import torch

from caption.engine import attention, check, load_engine, tilefeatures
from caption.engine.base import load
from caption.engine.families import MADE_OF_ONES
from caption.engine.slots import SlotEngine

from .helpers import options
from .test_slots import requests_for, texts

OWN = ("get_image_features", "inputs_merger", "get_placeholder_mask")


@pytest.fixture(params=sorted(MADE_OF_ONES))
def loaded(request, checkpoint):
    folder = checkpoint(request.param)
    return request.param, folder, load(options(folder))


def inner(model):
    return next(module for module in model.modules() if hasattr(module, "connector"))


def test_captions_are_the_same_and_the_methods_come_back(loaded):
    name, folder, loaded = loaded
    settings, requests = options(folder, batch_size=3, max_new_tokens=8), requests_for(folder, name, 7)
    expected, asked = texts(SlotEngine(settings, loaded), requests), []
    vision = inner(loaded.model).vision_model
    watch = vision.register_forward_hook(lambda *args: asked.append(1))  # the model's own way, with masks
    remove = tilefeatures.install(loaded.model)
    assert texts(SlotEngine(settings, loaded), requests) == expected
    assert not asked
    remove()
    assert not set(OWN) & set(vars(inner(loaded.model)))
    assert texts(SlotEngine(settings, loaded), requests) == expected
    assert asked
    watch.remove()


def test_features_are_those_of_the_model_to_the_last_bit_with_tiles_that_are_none_among_them(loaded):
    _, _, loaded = loaded
    model = inner(loaded.model)
    side = model.config.vision_config.image_size
    pixels = torch.randn(3, 4, 3, side, side, generator=torch.Generator().manual_seed(0))
    pixels[0, 2:] = pixels[2, 1:] = 0

    def features():
        made = model.get_image_features(pixels, return_dict=True).pooler_output
        return torch.cat(list(made)).flatten(0, -2)

    with torch.inference_mode():
        expected = features()
        remove = tilefeatures.install(loaded.model)
        assert torch.equal(features(), expected)
        remove()


@pytest.mark.parametrize("fault", [None, "features", "places"])
def test_the_check_at_load_finds_features_that_are_wrong(loaded, monkeypatch, fault):
    right_features, right_merged, right_places = (
        getattr(tilefeatures, name) for name in ("_features", "_merged", "_placeholders")
    )

    @functools.wraps(right_features)  # transformers asks what it takes
    def features(*args, **kwargs):
        made = right_features(*args, **kwargs)
        made.pooler_output = made.pooler_output.flip(1)
        return made

    def merged(model, original, input_ids, **rest):
        return right_merged(model, original, input_ids.flip(1), **rest)

    def places(model, original, input_ids, **rest):
        return right_places(model, original, input_ids.flip(1), **rest)

    if fault == "features":
        monkeypatch.setattr(tilefeatures, "_features", features)
    elif fault:
        monkeypatch.setattr(tilefeatures, "_merged", merged)
        monkeypatch.setattr(tilefeatures, "_placeholders", places)
    installed = [attention.install, tilefeatures.install]
    monkeypatch.setattr(check, "_install", lambda model, undo: undo.extend(install(model) for install in installed))
    _, folder, _ = loaded
    said = load_engine(options(folder)).describe()
    assert ("apart" in (said.get("fallback") or "")) == bool(fault)
