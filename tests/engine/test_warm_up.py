"""What is done before the first pictures come, and how many rows steps compute: none of it shows in a text."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from caption.engine import dummy, load_engine
from caption.engine.base import load
from caption.engine.decoder import Decoder
from caption.engine.slots import SlotEngine

from .helpers import options, set_ends
from .test_slots import out_of_memory, requests_for, texts

NO_PROCESSORS = SimpleNamespace(looks_back=False)


@pytest.fixture
def held(checkpoint):
    """An engine with endless texts, and requests for it."""
    engine = SlotEngine(options(checkpoint("llava")))
    set_ends(engine.model, [])
    return engine, requests_for(engine.options.model, "llava", 9)


def test_texts_that_are_dropped_leave_nothing_to_those_that_follow(held):
    engine, requests = held
    expected = texts(engine, requests)
    engine.admit(requests[:4])
    while engine.waiting:
        engine.step()
    with torch.inference_mode():
        for layer in engine.decoder.cache.layers:
            layer.keys[2], layer.values[2] = torch.nan, torch.nan
        engine.decoder.drop()
    engine.held.clear()
    assert texts(engine, requests) == expected


@pytest.mark.parametrize(
    ("held", "to_come", "filling", "computed"),
    [
        (3, 100, True, 64),  # more are about to come
        (3, 100, False, 4),  # so many steps make up for a capture
        (3, 10, False, 16),  # what is captured serves
        (20, 10, False, 64),
    ],
)
def test_fewer_rows_are_computed_where_that_is_captured_or_worth_it(held, to_come, filling, computed):
    decoder = Decoder(64, torch.device("cpu"), graphs=True)
    decoder.inner, decoder.processors = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=False)), NO_PROCESSORS
    decoder.rows = 64
    decoder.filled = dict.fromkeys(range(held), 50)
    decoder.until = dict.fromkeys(range(held), 50 + to_come)
    decoder.graphs.graphs = {(256, 16, False): None, (256, 64, False): None, (512, 4, False): None}
    assert decoder._computed(256, filling) == computed


class OneStream(SlotEngine):
    """Goes its way on a GPU, without one."""

    def __init__(self, *given):
        super().__init__(*given)
        self.beside = "any"

    def _beside(self):
        return contextlib.nullcontext()

    def move_in(self, group, slots, texts):
        self.decoder.admit(group, slots, texts)


@pytest.mark.parametrize("changes", [{}, {"repetition_penalty": 1.5, "temperature": 0.8}])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "smolvlm", "florence2"])
def test_a_group_of_noise_before_the_first_pictures_changes_no_text(checkpoint, name, changes, monkeypatch):
    monkeypatch.setattr(dummy, "SIZE", (90, 60))
    settings = options(checkpoint(name), batch_size=9, **changes)
    requests, loaded = requests_for(settings.model, name, 24, limits=(10, 4, 7)), load(settings)
    set_ends(loaded.model, [])
    cold, warm = OneStream(settings, loaded), OneStream(settings, loaded)
    cold.prefill_tokens = warm.prefill_tokens = 90
    warm.warm_up()
    assert warm.decoder.cache is not None and not warm.decoder.filled
    assert (warm.busy, warm.free) == (0, cold.free)
    assert texts(warm, requests) == texts(cold, requests) == texts(SlotEngine(settings, loaded), requests)


def test_what_fails_before_the_first_pictures_is_left_to_them(held, monkeypatch):
    engine, requests = held
    expected, one = texts(engine, requests), OneStream(engine.options, load(engine.options))
    set_ends(one.model, [])
    with monkeypatch.context() as broken:
        broken.setattr(one, "prefilled", out_of_memory)
        one.warm_up()
    assert not one.busy and texts(one, requests) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "florence2"])
def test_an_engine_that_has_warmed_up_says_the_same_and_holds_nothing(checkpoint, name, batch_size):
    settings = options(checkpoint(name), device="cuda", batch_size=batch_size, max_new_tokens=12)
    requests = requests_for(settings.model, name, 8, limits=(12, 5))
    cold, warm = load_engine(settings), load_engine(settings)
    warm.warm_up()
    assert not warm.busy and not warm.decoder.filled
    assert batch_size or warm.memory.measured
    assert texts(warm, requests) == texts(cold, requests)
