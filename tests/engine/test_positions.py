"""Positions of prompts with pictures, reckoned on the host: the model's own."""

import pytest
import torch

from caption.engine import positions
from caption.engine.base import load
from caption.engine.generate import GenerateEngine
from caption.engine.slots import SlotEngine

from .helpers import options
from .test_slots import requests_for, texts


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on a device of its own, and knows what was fetched from there."""

    fetched = 0

    @property
    def device(self):
        return torch.device("meta")

    def cpu(self):
        Elsewhere.fetched += 1
        return self.as_subclass(torch.Tensor)


def watched(reckon, seen: list):
    def reckon_and_note(*args, **kwargs):
        given = [one for one in (*args, *kwargs.values()) if torch.is_tensor(one)]
        made = reckon(*args, **kwargs)
        seen.append(([type(one) for one in given if not one.is_floating_point()], made))
        return made

    return reckon_and_note


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_words_are_the_same_and_the_method_comes_back(checkpoint, name):
    settings = options(checkpoint(name), batch_size=3, max_new_tokens=5)
    loaded, requests = load(settings), requests_for(settings.model, name, 5)
    expected = texts(GenerateEngine(settings, loaded), requests)
    owners = [module for module in loaded.model.modules() if hasattr(module, positions.NAME)]
    assert owners
    remove = positions.install(loaded.model)
    assert all(positions.NAME in vars(module) for module in owners)
    assert texts(SlotEngine(settings, loaded), requests) == expected
    remove()
    assert not any(positions.NAME in vars(module) for module in owners)
    assert texts(GenerateEngine(settings, loaded), requests) == expected


def test_small_numbers_are_fetched_at_once_and_pictures_stay(checkpoint):
    model = load(options(checkpoint("qwen2_5_vl"))).model.model
    ids, mask = torch.full((2, 30), 5), torch.ones(2, 30, dtype=torch.long)
    mask[0, :4] = 0
    kinds = torch.zeros(2, 30, dtype=torch.long)
    kinds[:, 10:16] = 1
    figures = {
        "input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds,
        "image_grid_thw": torch.tensor([[1, 4, 6], [1, 6, 4]]),
    }  # fmt: skip
    pixels, seen, fetched = torch.randn(48, 8).as_subclass(Elsewhere), [], Elsewhere.fetched
    expected = model.get_rope_index(**figures)
    model.get_rope_index = watched(model.get_rope_index, seen)
    made = positions._on_host(
        model.get_rope_index, **{name: one.as_subclass(Elsewhere) for name, one in figures.items()}, pixel_values=pixels
    )
    [(kinds, reckoned)] = seen
    assert kinds == [torch.Tensor] * 4 and Elsewhere.fetched - fetched == 4
    assert all(torch.equal(one, other) for one, other in zip(reckoned, expected))
    assert [(one.device.type, one.shape) for one in made] == [("meta", one.shape) for one in expected]


def test_what_can_not_be_reckoned_on_the_host_is_reckoned_as_before():
    def reckon(ids):
        if not isinstance(ids, Elsewhere):
            raise RuntimeError("expected all tensors to be on the same device")
        return "as before"

    assert positions._on_host(reckon, torch.zeros(2, dtype=torch.long).as_subclass(Elsewhere)) == "as before"
