"""What changes between two texts, where steps are CUDA graphs that were captured before."""

from dataclasses import replace

import pytest
import torch

from caption.engine import Adapter, load_engine
from caption.engine.base import load
from caption.engine.generate import GenerateEngine

from .helpers import options, set_ends
from .test_adapters import trained, words
from .test_slots import requests_for, texts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def graph_engine(settings):
    engine = load_engine(settings)
    assert engine.name == "slots" and engine.graphs, engine.fallback
    set_ends(engine.model, [])
    return engine


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_5"])
def test_a_text_with_a_penalty_of_its_own_among_others(checkpoint, name):
    settings = options(checkpoint(name), device="cuda", batch_size=3, max_new_tokens=14)
    plain = requests_for(settings.model, name, 7, limits=(14, 6, 10))
    factors = [1.0, 1.0, 1.0, 1.5, 1.0, 4.0, 1.0]
    penalized = [replace(one, penalty=factor) for one, factor in zip(plain, factors)]
    loaded = load(settings)
    set_ends(loaded.model, [])

    def alone(one):
        as_run = replace(settings, repetition_penalty=one.penalty)
        return texts(GenerateEngine(as_run, loaded), [replace(one, penalty=1.0)])[one.key]

    engine = graph_engine(settings)
    bare = texts(engine, plain)
    assert texts(engine, penalized) == {one.key: alone(one) for one in penalized} != bare
    assert texts(engine, plain) == bare


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_an_adapter_that_comes_and_goes(checkpoint, tmp_path, name):
    folder = checkpoint(name)
    adapter = Adapter(trained(folder, tmp_path, target_modules="all-linear"))
    settings = options(folder, device="cuda", batch_size=3)
    merged = load(replace(settings, adapter=adapter))
    expected = words(GenerateEngine(settings, merged), folder, name)
    engine = graph_engine(settings)
    bare = words(engine, folder, name)
    engine.adapt(adapter)
    assert words(engine, folder, name) == expected != bare
    engine.adapt(None)
    assert words(engine, folder, name) == bare


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_5"])
def test_words_that_are_forbidden_stay_so_when_later_groups_have_taken_memory(checkpoint, name):
    settings = options(checkpoint(name), device="cuda", batch_size=3, max_new_tokens=12)
    requests = requests_for(settings.model, name, 12, limits=(12, 7, 9))
    loaded = load(settings)
    set_ends(loaded.model, [])
    bare = texts(GenerateEngine(settings, loaded), requests)
    often = [int(word) for text in bare.values() for word in text.split()]
    forbidden = sorted(set(often), key=often.count)[-8:]

    def forbid(model):
        for module in model.modules():
            if getattr(module, "generation_config", None) is not None:
                module.generation_config.suppress_tokens = forbidden

    forbid(loaded.model)
    expected = texts(GenerateEngine(settings, loaded), requests)
    assert not {int(word) for text in expected.values() for word in text.split()} & set(forbidden)
    engine = graph_engine(settings)
    forbid(engine.model)
    engine.reset()
    assert texts(engine, requests) == expected != bare
    # What the first group left behind is taken by something else, of any size.
    with torch.cuda.stream(engine.beside):
        taken = [torch.zeros(size, dtype=torch.int64, device="cuda") for size in (1, 8, 64, 512) for _ in range(64)]
    assert texts(engine, requests) == expected
    del taken
