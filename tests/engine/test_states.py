"""Layers that sum a text up in a state of a fixed size, where others keep its tokens: no position hides what is old."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from caption.engine.base import load
from caption.engine.generate import GenerateEngine
from caption.engine.graph import Graphs
from caption.engine.memory import LOGITS, Memory
from caption.engine.slots import SlotEngine

from .helpers import options, set_ends
from .test_slots import requests_for, texts

NAME = "qwen3_5"


@pytest.fixture
def engine(checkpoint):
    """Whose texts end at their limits alone."""
    engine = SlotEngine(options(checkpoint(NAME), batch_size=8, max_new_tokens=14))
    set_ends(engine.model, [])
    return engine


@pytest.fixture
def expected(engine):
    """Requests, and what generate writes for each by itself."""
    requests = requests_for(engine.options.model, NAME, 20, limits=(14, 3, 9, 5, 11))
    loaded = load(engine.options)
    set_ends(loaded.model, [])
    one_by_one = GenerateEngine(engine.options, loaded)
    return requests, {key: text for one in requests for key, text in texts(one_by_one, [one]).items()}


def test_texts_that_take_the_place_of_others_begin_anew(engine, expected):
    requests, alone = expected
    for _ in range(2):
        assert texts(engine, requests) == alone


def test_states_move_with_their_texts_into_lower_rows(engine, expected, monkeypatch):
    requests, alone = expected
    moved, compact = [], engine.decoder.compact
    monkeypatch.setattr(engine.decoder, "compact", lambda: moved.append(compact()) or moved[-1])
    assert texts(engine, requests) == alone
    assert any(moved), "no text was moved: this proves nothing"


def test_runs_before_a_capture_leave_states_as_they_were(engine, expected, monkeypatch):
    """On a GPU a step is run twice before it is captured, at any moment, with texts in it."""
    requests, alone = expected
    captured = []

    def capture(graphs, shape, step):
        captured.append(shape)
        for _ in range(3):
            step(*shape)
        return SimpleNamespace(replay=lambda: step(*shape))

    monkeypatch.setattr(Graphs, "_capture", capture)
    graphs = SlotEngine(engine.options, load(engine.options), graphs=True)
    set_ends(graphs.model, [])
    assert texts(graphs, requests) == alone
    assert len(captured) > 1


@pytest.mark.parametrize(("device", "installed", "missing"), [
    ("cuda", (), "flash-linear-attention causal-conv1d"), ("cuda", ("fla",), "causal-conv1d"),
    ("cuda", ("fla", "causal_conv1d"), None), ("cpu", (), None),
])  # fmt: skip
def test_packages_that_would_make_it_faster_are_named(engine, monkeypatch, device, installed, missing):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in installed else None)
    engine.options = replace(engine.options, device=device)
    expected = f"Qwen3_5ForConditionalGeneration is faster with packages that are not installed: pip install {missing}"
    assert engine._remarks() == ([expected] if missing else [])


def test_states_count_as_memory_of_a_slot(engine, expected, monkeypatch):
    requests, _ = expected
    engine.admit(requests[:3])
    engine.step()
    with torch.inference_mode():
        group = engine.prefilled(requests[:3])
    states = [state for layer in engine.decoder.cache.states for state in layer.states.values()]
    assert len(states) == 4, "of two layers, a convolution's and what it is summed up in"
    for name in ("max_memory_allocated", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)
    memory = Memory(torch.device("cpu"))
    memory.before = 0
    memory.measure(group)
    assert memory.row_bytes == LOGITS * group.logits.shape[1] + sum(state[0].nbytes for state in states)
