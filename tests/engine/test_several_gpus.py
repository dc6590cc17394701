"""A model spread over two GPUs, in layers."""

from dataclasses import replace

import pytest
import torch

from caption.engine import load_engine
from caption.engine.base import load
from caption.engine.generate import GenerateEngine

from .helpers import options
from .test_slots import requests_for, texts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "gemma3", "florence2", "qwen3_5"])
def test_words_of_a_model_on_two_gpus_are_those_of_generate_on_one(checkpoint, name):
    settings = options(checkpoint(name), device="cuda", batch_size=3, max_new_tokens=5)
    requests = requests_for(settings.model, name, 5, (5, 3))
    expected = texts(GenerateEngine(settings, load(settings)), requests)
    engine = load_engine(replace(settings, gpus=2))
    assert {parameter.device.index for parameter in engine.model.parameters()} == {0, 1}
    assert engine.name == "slots", engine.fallback
    assert texts(engine, requests) == expected


def test_memory_is_measured_on_both(checkpoint):
    settings = options(checkpoint("llava"), device="cuda", batch_size=None, max_new_tokens=5, gpus=2)
    engine, requests = load_engine(settings), requests_for(settings.model, "llava", 6)
    texts(engine, requests)
    memories = engine.memory.memories
    assert len(memories) == 2 and all(memory.token_bytes for memory in memories)
    assert any(memory.place_bytes for memory in memories), "all layers of so small a model may lie on one of them"
