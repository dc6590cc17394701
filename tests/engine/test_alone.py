"""What can't be computed in one batch with others is computed alone, and only that; a run says so."""

import math

import pytest
import torch
from transformers import GenerationMixin, LlamaConfig

from caption.engine import base, load_engine, packing
from caption.engine.base import load
from caption.engine.collate import collate
from caption.engine.errors import DoesNotLoad
from caption.engine.generate import GenerateEngine
from caption.engine.ropes import find_reach
from caption.engine.slots import SlotEngine

from .helpers import options
from .test_slots import requests_for, texts
from .tiny import REACH


def one_at_a_time(items, *rest):
    if len(items) > 1:
        raise ValueError("unlike pictures")
    return collate(items, *rest)


@pytest.mark.parametrize("slots", [1, 2])
def test_few_slots_are_no_reason_to_go_without(checkpoint, slots):
    settings = options(checkpoint("llava"), batch_size=slots, max_new_tokens=5)
    engine, requests = load_engine(settings), requests_for(settings.model, "llava", 4)
    assert engine.name == "slots" and not engine.fallback and engine.slots == slots
    assert texts(engine, requests) == texts(GenerateEngine(settings), requests)


def test_prompts_that_can_not_stand_side_by_side_are_computed_one_by_one_in_slots(checkpoint, monkeypatch):
    settings = options(checkpoint("llava"), batch_size=3, max_new_tokens=5)
    requests = requests_for(settings.model, "llava", 5)
    expected = texts(GenerateEngine(settings), requests)
    monkeypatch.setattr(base, "collate", one_at_a_time)
    engine = load_engine(settings)
    assert engine.name == "slots" and engine.alone
    assert "without prompts side by side" in engine.fallback and "unlike pictures" in engine.fallback
    assert texts(engine, requests) == expected


def test_batches_of_generate_that_go_wrong_are_not_made(checkpoint, monkeypatch):
    settings = options(checkpoint("kosmos2"), batch_size=3, max_new_tokens=5, prompt="An image of")
    requests = requests_for(settings.model, "kosmos2", 5)
    expected = texts(GenerateEngine(settings, load(settings)), requests)
    alike = {"input_ids"}  # so that prompts of two pictures come into one batch

    def wrong(items, *rest):
        made = collate(items, *rest)
        return {name: value if name in alike else value.flip(0) for name, value in made.items()}

    monkeypatch.setattr(base, "UNPADDABLE", set())
    monkeypatch.setattr(base, "collate", wrong)
    engine = load_engine(settings)
    assert engine.name == "generate" and engine.alone and "only one by one" in engine.fallback
    assert texts(engine, requests) == expected


@pytest.mark.parametrize("names", [("a", "b"), ("a",)])
def test_arrays_that_only_some_pictures_have_are_not_dropped(names):
    items = [{name: torch.ones(1, 2).numpy() for name in given} for given in (names, ("a", "c"))]
    with pytest.raises(ValueError, match=r"only some of these pictures have (b, )?c$"):
        collate(items, 0, "left", "cpu", torch.float32)


@pytest.mark.parametrize(
    ("rope", "reach"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, math.inf),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, 300),
        ({"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
          "original_max_position_embeddings": 100}, 100),
    ],
    ids=["default", "dynamic", "longrope"],
)  # fmt: skip
def test_the_length_from_which_a_text_changes_others(rope, reach):
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=300, rope_parameters=rope)
    assert find_reach(config) == reach


@pytest.mark.parametrize("engine_class", [SlotEngine, GenerateEngine])
@pytest.mark.parametrize("name", ["llava_dynamic", "llava_longrope"])
def test_long_texts_are_alone_and_short_ones_are_not(checkpoint, monkeypatch, name, engine_class):
    settings = options(checkpoint(name), batch_size=4, max_new_tokens=6)
    engine, requests, batches = engine_class(settings), requests_for(settings.model, name, 9), []
    generate = engine.generate
    monkeypatch.setattr(engine, "generate", lambda group, custom: batches.append(group) or generate(group, custom))
    texts(engine, requests)
    lengths = [[request.prompt_tokens + 6 for request in group] for group in batches]
    assert {len(group) for group in lengths if max(group) > REACH} == {1}
    assert max(len(group) for group in lengths if max(group) <= REACH) > 1


@pytest.mark.parametrize("name", ["llava_dynamic", "llava_longrope"])
def test_short_texts_never_ask_how_long_they_are_and_long_ones_change_nothing_for_them(checkpoint, monkeypatch, name):
    settings = options(checkpoint(name), batch_size=4, max_new_tokens=6)
    engine, requests = SlotEngine(settings), requests_for(settings.model, name, 9)
    short = [request for request in requests if request.prompt_tokens + 6 <= REACH]
    assert 0 < len(short) < 9
    [rope] = engine.ropes.kinds
    before, place = texts(engine, short), rope.inv_freq.data_ptr()
    texts(engine, requests)

    def ask(*args, **kwargs):
        raise AssertionError("a device would be waited for")

    monkeypatch.setattr(torch, "max", ask)
    assert texts(engine, short) == before
    assert rope.inv_freq.data_ptr() == place, "captured steps read it there"


@pytest.mark.parametrize("name", ["llava_dynamic", "llava_longrope"])
def test_one_engine_behind_another_finds_frequencies_as_they_were(checkpoint, name):
    settings = options(checkpoint(name), batch_size=4, max_new_tokens=6)
    requests, loaded = requests_for(settings.model, name, 9), load(settings)
    expected = texts(GenerateEngine(settings), requests)
    for way in (SlotEngine, GenerateEngine, SlotEngine):
        assert texts(way(settings, loaded), requests) == expected


def test_a_layers_mlp_that_is_told_more_gets_all_of_it():
    class Told(torch.nn.Module):
        def forward(self, states, kinds=None):
            return states if kinds is None else states + kinds

    text = torch.nn.Module()
    text.layers = torch.nn.ModuleList([torch.nn.Module()])
    text.layers[0].mlp = Told()
    last = packing._LastMlp(text)
    states, kinds = torch.ones(1, 3, 2), torch.arange(3.0)[None, :, None]
    made = last.run(lambda: text.layers[0].mlp(states, kinds), {}, torch.tensor([2]))
    assert torch.equal(made, states + kinds)


def test_a_model_whose_own_generate_fails_is_said_to(checkpoint, monkeypatch):
    def fails(*args, **kwargs):
        raise ValueError("no boxes")

    monkeypatch.setattr(GenerationMixin, "generate", fails)
    engine = load_engine(options(checkpoint("llava")))
    assert "its own generate failed with a small picture: ValueError: no boxes" in engine.fallback


def test_a_model_that_generates_in_a_way_of_its_own_is_refused_at_once(checkpoint, monkeypatch):
    monkeypatch.setattr(GenerationMixin, "generate", lambda *args, **kwargs: None)
    with pytest.raises(DoesNotLoad, match="in a way of its own"):
        load_engine(options(checkpoint("llava")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "slots"), [("llava", 1), ("llava", 2), ("llava_dynamic", 4), ("llava_longrope", 4)])
def test_on_a_gpu_they_are_captured_and_right_as_well(checkpoint, name, slots):
    settings = options(checkpoint(name), device="cuda", batch_size=slots, max_new_tokens=6)
    engine, requests = load_engine(settings), requests_for(settings.model, name, 9)
    assert engine.name == "slots" and not engine.fallback and engine.graphs
    assert texts(engine, requests) == texts(GenerateEngine(settings), requests)
    assert engine.decoder.graphs.graphs
