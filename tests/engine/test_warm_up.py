"""What is done before the first pictures come, and how many rows steps compute: none of it shows in a text."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from PIL import Image

from caption.engine import dummy, load_engine, load_preparer
from caption.engine.base import load
from caption.engine.collate import collate
from caption.engine.decoder import Decoder
from caption.engine.graph import PAYS
from caption.engine.slots import WAITING, SlotEngine

from .helpers import options, set_ends
from .test_slots import out_of_memory, requests_for, texts


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


@pytest.fixture
def computed(monkeypatch):
    """By whether there are graphs: a decoder of 64 rows without a model, and the list of how many rows its steps
    compute."""

    def made(graphs: bool) -> tuple[Decoder, list[int]]:
        decoder, seen = Decoder(64, torch.device("cpu"), graphs=graphs), []
        decoder.inner = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=False))
        decoder.processors = SimpleNamespace(looks_back=False)
        decoder.state, decoder.rows, decoder.capacity = SimpleNamespace(live=torch.zeros(64).bool()), 64, 256
        decoder.cache = SimpleNamespace(states_in=lambda rows: [], set_states=lambda rows, states: None)
        monkeypatch.setattr(decoder, "_step", lambda view, part, looks_back: seen.append(part))
        if graphs:
            replayed = [seen.append]
            capture = lambda shape, step: SimpleNamespace(replay=lambda: replayed[0](shape[1]))  # noqa: E731
            monkeypatch.setattr(decoder.graphs, "_capture", capture)
        return decoder, seen

    return made


def turns(decoder: Decoder, rows: int, count: int, steps: int = 2) -> None:
    for _ in range(count):
        decoder.filled = dict.fromkeys(range(rows), 50)
        decoder.run(steps)


def test_without_graphs_a_step_computes_the_fewest_rows_at_once(computed):
    decoder, seen = computed(False)
    turns(decoder, 3, 1)
    turns(decoder, 40, 1)
    assert seen == [4, 4, 64, 64]


def test_a_graph_of_few_rows_is_captured_only_when_it_has_been_wanted_for_as_long_as_it_takes_to_pay(computed):
    decoder, seen = computed(True)
    turns(decoder, 3, PAYS)
    turns(decoder, 40, 3)
    assert set(seen) == {64}
    seen.clear()
    turns(decoder, 3, 2)
    assert seen == [4] * 4
    turns(decoder, 10, 1)
    assert seen[4:] == [16] * 2, "it was wanted as well, while three rows were computed as 64"
    decoder.graphs.clear()
    turns(decoder, 3, 1)
    assert seen[6:] == [64] * 2


class OneStream(SlotEngine):
    """Goes its way on a GPU, without one."""

    def __init__(self, *given):
        super().__init__(*given)
        self.beside, self.standstill = "any", mock.Mock(seconds=0.0)

    def _beside(self):
        return contextlib.nullcontext()

    def move_in(self, group, slots, texts):
        self.decoder.admit(group, slots, texts)


@pytest.mark.parametrize("changes", [{}, {"repetition_penalty": 1.5, "temperature": 0.8}])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "smolvlm", "florence2", "qwen3_5"])
def test_a_group_of_noise_before_the_first_pictures_changes_no_text(checkpoint, name, changes, monkeypatch):
    monkeypatch.setattr(dummy, "SIZE", (90, 60))
    settings = options(checkpoint(name), batch_size=9, **changes)
    requests, loaded = requests_for(settings.model, name, 24, limits=(10, 4, 7)), load(settings)
    set_ends(loaded.model, [])
    cold, warm = OneStream(settings, loaded), OneStream(settings, loaded)
    cold.prefill_tokens = warm.prefill_tokens = 90
    warm.warm_up()
    assert warm.decoder.cache is not None and not warm.decoder.filled
    assert (warm.busy, warm.free) == (0, min(cold.free, WAITING * warm.fitting))
    assert texts(warm, requests) == texts(cold, requests) == texts(SlotEngine(settings, loaded), requests)


def test_the_first_texts_begin_when_two_groups_of_pictures_are_there_however_many_slots(checkpoint, monkeypatch):
    monkeypatch.setattr(dummy, "SIZE", (90, 60))
    engine = OneStream(options(checkpoint("llava"), batch_size=64))
    assert engine.free == 64
    prompt = dummy.dummy_requests(engine.options, engine.processor, 1)[0].prompt_tokens
    engine.prefill_tokens = 3 * prompt
    engine.warm_up()
    assert (engine.fitting, engine.free) == (3, 3 * WAITING)


@pytest.mark.parametrize("name", ["llava", "smolvlm", "idefics3"])
def test_the_noise_goes_the_way_of_pictures_from_loaders(checkpoint, name):
    settings = options(checkpoint(name))
    loaded, preparer = load(settings), load_preparer(settings)
    first = dummy.dummy_requests(settings, loaded.processor, 1)[0].inputs
    image = Image.new("RGB", dummy.SIZE, (9, 40, 90))
    sent = [collate([inputs], 0, "left", "cpu", torch.float32) for inputs in (first, preparer.prepare(image))]
    assert sent[0].keys() == sent[1].keys()


def broken(*_):
    raise RuntimeError("bad shape")


def lost(*_):
    raise RuntimeError("CUDA error: unspecified launch failure")


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("slots.dummy_requests", broken),
        ("slots.SlotEngine.prefilled", broken),
        ("slots.SlotEngine.prefilled", out_of_memory),
    ],
)
def test_what_fails_before_the_first_pictures_is_left_to_them(held, monkeypatch, place, fault):
    engine, requests = held
    expected, one = texts(engine, requests), OneStream(engine.options, load(engine.options))
    set_ends(one.model, [])
    most = one.prefill_tokens
    with monkeypatch.context() as during:
        during.setattr(f"caption.engine.{place}", fault)
        one.warm_up()
    assert not one.busy and one.prefill_tokens == most and one.decoder.cache is None
    assert texts(one, requests) == expected


@pytest.mark.parametrize(("noise", "kept"), [(0.0, True), (1e-4, True), (1.0, False), (float("nan"), False)])
def test_products_by_chosen_ways_that_make_other_logits_are_forgotten(held, monkeypatch, noise, kept):
    engine, requests = held
    one, calls, forgotten = OneStream(engine.options, load(engine.options)), [], []
    expected, prefilled = texts(one, requests), one.prefilled

    def other_logits(group):
        calls.append(group)
        filled = prefilled(group)
        return replace(filled, logits=filled.logits + (noise if len(calls) == 2 else 0))

    monkeypatch.setattr(one, "prefilled", other_logits)
    monkeypatch.setattr("caption.engine.products.any_chosen", lambda: True)
    monkeypatch.setattr("caption.engine.products.forget", lambda: forgotten.append(1))
    one.warm_up()
    assert len(calls) == 3 and calls[0] == calls[1]
    assert forgotten == [1] * (not kept)
    assert texts(one, requests) == expected


def test_a_device_that_is_lost_before_the_first_pictures_is_not_left_to_them(held, monkeypatch):
    engine, _ = held
    one = OneStream(engine.options, load(engine.options))
    monkeypatch.setattr(one, "prefilled", lost)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        one.warm_up()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "florence2", "qwen3_5"])
def test_an_engine_that_has_warmed_up_says_the_same_and_holds_nothing(checkpoint, name, batch_size):
    settings = options(checkpoint(name), device="cuda", batch_size=batch_size, max_new_tokens=12)
    requests = requests_for(settings.model, name, 8, limits=(12, 5))
    cold, warm = load_engine(settings), load_engine(settings)
    warm.warm_up()
    assert not warm.busy and not warm.decoder.filled
    assert batch_size or warm.memory.measured
    assert texts(warm, requests) == texts(cold, requests)
