"""Features of vision's inner layers, added to the text's without waits: the model's own."""

import pytest
import torch

from caption.engine import attention, deepstack, packing
from caption.engine.base import load
from caption.engine.slots import SlotEngine

from .helpers import options
from .test_slots import requests_for, texts


@pytest.fixture
def settings(checkpoint):
    return options(checkpoint("qwen3_vl"), batch_size=3, max_new_tokens=6)


@pytest.mark.parametrize("packed", [False, True])
def test_words_are_the_same_and_the_method_comes_back(settings, packed):
    loaded, requests = load(settings), requests_for(settings.model, "qwen3_vl", 5)
    expected, added = texts(SlotEngine(settings, loaded), requests), []
    owners = [module for module in loaded.model.modules() if hasattr(module, deepstack.NAME)]
    assert owners
    undo = [attention.install(loaded.model), packing.install(loaded.model)] if packed else []
    undo.append(deepstack.install(loaded.model))
    for module in owners:
        method = getattr(module, deepstack.NAME)
        setattr(module, deepstack.NAME, lambda *args, method=method: added.append(args[1].shape) or method(*args))
    assert texts(SlotEngine(settings, loaded), requests) == expected
    assert added and (not packed or {shape[0] for shape in added} == {1})
    while undo:
        undo.pop()()
    assert not any(deepstack.NAME in vars(module) for module in owners)
    assert texts(SlotEngine(settings, loaded), requests) == expected


@pytest.mark.parametrize("count", [0, 1, 24])
def test_sums_are_those_of_the_model_to_the_last_bit(settings, count):
    model = load(settings).model
    owner = next(module for module in model.modules() if hasattr(module, deepstack.NAME))
    generator = torch.Generator().manual_seed(count)
    states, features = torch.randn(3, 8, 16, generator=generator), torch.randn(count, 16, generator=generator)
    here = torch.zeros(24, dtype=torch.bool)
    here[torch.randperm(24, generator=generator)[:count]] = True
    given = states, here.view(3, 8), features
    before, expected = states.clone(), getattr(owner, deepstack.NAME)(*given)
    deepstack.install(model)
    assert torch.equal(getattr(owner, deepstack.NAME)(*given), expected)
    assert torch.equal(states, before), "others may hold what went in"
