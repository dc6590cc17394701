"""A model spread over two GPUs, in layers."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

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


@pytest.fixture(scope="module")
def apart():
    """Calls a function in a process of its own. GPUs that have once read each other's memory do so until its end, and a
    driver was seen to refuse memory to the tests behind it then (resource already mapped)."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield lambda function, *given: process.submit(function, *given).result(300)


def on_one_and_on_two(folder: str, name: str) -> tuple[dict, dict, set[int], str]:
    """The texts of generate on one GPU and of our engine on two, where its weights lie, and which engine it is."""
    settings = options(folder, device="cuda", batch_size=3, max_new_tokens=5)
    requests = requests_for(folder, name, 5, (5, 3))
    expected = texts(GenerateEngine(settings, load(settings)), requests)
    engine = load_engine(replace(settings, gpus=2))
    devices = {parameter.device.index for parameter in engine.model.parameters()}
    return expected, texts(engine, requests), devices, f"{engine.name} {engine.fallback}"


def measured_on_two(folder: str) -> list[tuple[float, float]]:
    """Of each GPU: the bytes of a token of a prompt, and of a place in the cache."""
    settings = options(folder, device="cuda", batch_size=None, max_new_tokens=5, gpus=2)
    engine = load_engine(settings)
    texts(engine, requests_for(folder, "llava", 6))
    return [(memory.token_bytes, memory.place_bytes) for memory in engine.memory.memories]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "gemma3", "florence2", "qwen3_5"])
def test_words_of_a_model_on_two_gpus_are_those_of_generate_on_one(checkpoint, apart, name):
    expected, made, devices, engine = apart(on_one_and_on_two, checkpoint(name), name)
    assert devices == {0, 1} and engine == "slots None"
    assert made == expected


def test_memory_is_measured_on_both(checkpoint, apart):
    found = apart(measured_on_two, checkpoint("llava"))
    assert len(found) == 2 and all(token for token, _ in found)
    assert any(place for _, place in found), "all layers of so small a model may lie on one of them"
