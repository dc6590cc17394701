"""The engine with its kernels. On a GPU; without one, in Triton's interpreter where TRITON_INTERPRET=1 is set."""

import pytest
import torch

from .interpreted import DEVICE, INTERPRETED, MARK  # isort: skip (what follows needs Triton)

from caption.engine import attention, check, fused, layers, products, tilefeatures
from caption.engine.base import load
from caption.engine.decoder import Decoder
from caption.engine.generate import GenerateEngine
from caption.engine.owned import owning
from caption.engine.slotcache import SlotLayer
from caption.engine.slots import SlotEngine

from .helpers import options
from .test_slots import requests_for, texts

pytestmark = MARK


@pytest.fixture(autouse=True)
def kernels_on_the_interpreters_device(monkeypatch):
    if not INTERPRETED:
        return
    start, original = Decoder._start, SlotLayer.__init__

    def with_kernels(self, group):
        monkeypatch.setattr(SlotLayer, "__init__", lambda layer, at, like, kernels: original(layer, at, like, True))
        start(self, group)
        self.kernels = True

    monkeypatch.setattr(Decoder, "_start", with_kernels)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava", "gemma3"])
def test_words_with_kernels_are_those_of_generate(checkpoint, name):
    settings = options(checkpoint(name), device=DEVICE, batch_size=3, max_new_tokens=5)
    loaded = load(settings)
    requests = requests_for(settings.model, name, 5, (5, 3))
    expected = texts(GenerateEngine(settings, loaded), requests)
    undo = [fused.install(loaded.model), attention.install(loaded.model)]
    replaced = sum("forward" in vars(module) for module in loaded.model.modules())
    assert replaced >= 4, "RMSNorm and gated MLPs are there"
    if name != "gemma3":  # whose layers have four norms
        assert all("forward" in vars(layer) for layer in loaded.model.get_decoder().layers)
    assert texts(SlotEngine(settings, loaded, graphs=False), requests) == expected
    for one in undo:
        one()
    assert not any("forward" in vars(module) for module in loaded.model.modules())
    assert texts(GenerateEngine(settings, loaded), requests) == expected


GELU = torch.nn.GELU(approximate="tanh")


class Mlp(torch.nn.Module):
    def __init__(self, act: str = "tanh"):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(24, 48), torch.nn.Linear(48, 24)
        self.activation_fn = torch.nn.GELU(approximate=act)

    def forward(self, states):
        return self.fc2(self.activation_fn(self.fc1(states)))


@pytest.mark.parametrize(("act", "faster"), [("tanh", True), ("none", False)])
def test_two_layers_are_joined_where_their_activation_is_the_one_that_cublas_knows(act, faster):
    mlp = Mlp(act).to(DEVICE, torch.float16).eval()
    states = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)).to(DEVICE, torch.float16)
    with torch.inference_mode():
        expected, forward = mlp(states), fused._two_layers(mlp)
        assert (forward is not None) == faster
        if faster:
            torch.testing.assert_close(forward(states), expected, rtol=5e-3, atol=5e-3)


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.o_proj = torch.nn.Linear(24, 24)

    def forward(self, hidden_states, mask, scale=2.0, **kwargs):
        return self.o_proj(hidden_states) * scale * mask, None


class Layer(torch.nn.Module):
    """As many families have it. share: of what the MLP makes, to be added."""

    def __init__(self, share: float = 1.0):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = torch.nn.LayerNorm(24), torch.nn.LayerNorm(24)
        self.self_attn, self.mlp, self.share = Attention(), Mlp(), share

    def forward(self, hidden_states, mask, scale=3.0, **kwargs):
        added, _ = self.self_attn(self.layer_norm1(hidden_states), mask=mask, scale=scale, **kwargs)
        hidden_states = hidden_states + added
        return hidden_states + self.share * self.mlp(self.layer_norm2(hidden_states))


class Forgetful(Layer):
    def forward(self, hidden_states, mask, scale=3.0, **kwargs):
        return super().forward(hidden_states, mask, scale=4.0, **kwargs)


@pytest.mark.parametrize(("layer", "faster"), [(Layer(), True), (Layer(0.9), False), (Forgetful(), False)])
def test_sums_of_a_layer_are_joined_with_their_neighbours_where_it_is_nothing_but_these(layer, faster):
    layer = layer.to(DEVICE, torch.float16).eval()
    generator = torch.Generator().manual_seed(0)
    states, mask = (torch.randn(*shape, generator=generator).to(DEVICE).half() for shape in ((2, 5, 24), (5, 1)))
    with torch.inference_mode():
        expected, before = layer(states, mask, another=1), states.clone()
        for module in layer.modules():
            if forward := fused._norm(module) or fused._two_layers(module):
                module.forward = forward
        layers.install(layer)
        assert ("forward" in vars(layer)) == faster
        torch.testing.assert_close(layer(states, mask, another=1), expected, rtol=5e-3, atol=5e-3)
        assert torch.equal(states, before), "others may hold what went in"


class PassingOn(Attention):
    def forward(self, hidden_states, mask, scale=2.0, **kwargs):
        return self.o_proj(hidden_states * scale * mask), None


class InPlace(Attention):
    def forward(self, hidden_states, mask, scale=2.0, **kwargs):
        return self.o_proj(hidden_states * scale).mul_(mask), None


@pytest.mark.parametrize(("kind", "passes"), [(PassingOn, True), (Attention, False), (InPlace, False)])
def test_attentions_last_product_is_made_onto_states_that_are_owned_where_nothing_is_done_to_it(
    kind, passes, monkeypatch
):
    layer = Layer()
    layer.self_attn = kind()
    layer = layer.to(DEVICE, torch.float16).eval()
    generator = torch.Generator().manual_seed(0)
    states, mask = (torch.randn(*shape, generator=generator).to(DEVICE).half() for shape in ((2, 5, 24), (5, 1)))
    asked = []

    def added_at_once(total, states, weight, bias):
        asked.append(total)
        if not products.trying():
            total += torch.nn.functional.linear(states, weight, bias)
        return not products.trying()

    monkeypatch.setattr(products, "added_at_once", added_at_once)
    with torch.inference_mode():
        expected = layer(states, mask)
        for module in layer.modules():
            if forward := fused._norm(module) or fused._two_layers(module):
                module.forward = forward
        undo = layers.install(layer)
        last, turns = layer.self_attn.o_proj.forward, [(False, True, 0), (True, False, 0), (True, True, 1)]
        for trying, ours, count in (*turns, (False, True, passes), (False, False, 0)):
            asked.clear()
            monkeypatch.setattr(products, "trying", lambda trying=trying: trying)
            given = states.clone()
            if ours:
                with owning():
                    made = layer(given, mask)
            else:
                made = layer(given, mask)
                assert torch.equal(given, states), "others may hold what went in"
            torch.testing.assert_close(made, expected, rtol=5e-3, atol=5e-3)
            assert len(asked) == count
            assert last.states is last.summed is last.seen is None, "nothing is held longer than it takes"
            assert (made.data_ptr() == given.data_ptr()) == (ours and passes and (trying or count > 0))
    for one in undo:
        one()
    assert not any("forward" in vars(module) for module in (layer, layer.self_attn.o_proj))


@pytest.mark.parametrize("name", ["smolvlm", "idefics3"])
def test_words_are_those_of_generate_where_each_layer_of_a_tower_writes_into_its_states(checkpoint, name, monkeypatch):
    settings = options(checkpoint(name), device=DEVICE, batch_size=3, max_new_tokens=5)
    loaded = load(settings)
    requests = requests_for(settings.model, name, 5, (5, 3))
    expected = texts(GenerateEngine(settings, loaded), requests)
    if INTERPRETED:  # a CPU's is the other GELU
        monkeypatch.setattr(products, "linear_gelu", lambda *given: GELU(torch.nn.functional.linear(*given)))
    for part in (fused, attention, tilefeatures):
        part.install(loaded.model)
    engine, added = SlotEngine(settings, loaded, graphs=False), []

    def added_at_once(total, states, weight, bias):
        if not products.trying():
            added.append(total.add_(torch.nn.functional.linear(states, weight, bias)))
        return not products.trying()

    monkeypatch.setattr(products, "added_at_once", added_at_once)
    with monkeypatch.context() as during:
        during.setattr(products, "trying", lambda: True)
        assert texts(engine, requests) == expected and not added
    assert texts(engine, requests) == expected
    layers_there = loaded.model.config.vision_config.num_hidden_layers
    assert len(added) % layers_there == 0 and len({one.data_ptr() for one in added[:layers_there]}) == 1


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
@pytest.mark.parametrize("name", ["smolvlm", "idefics3"])
def test_words_of_towers_that_write_into_their_states_are_those_of_generate(checkpoint, name, monkeypatch, tmp_path):
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setattr(products, "MANY", 1)
    monkeypatch.setattr(products, "SOME", 1)
    monkeypatch.setattr(products, "fastest", lambda product, device: next(iter(product.ways(64)), b""))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = options(checkpoint(name), device=DEVICE, dtype="bf16", batch_size=3, max_new_tokens=5)
    loaded = load(settings)
    requests = requests_for(settings.model, name, 5, (5, 3))
    _, logits = check._ask_generate(settings, loaded)
    engine = check.load_fastest(settings)
    assert engine.name == "slots" and not engine.fallback
    engine.warm_up()
    assert products.any_chosen(), "they passed the second look"
    summed = [vars(one).get("forward") for one in engine.model.modules()]
    assert any(one.passes for one in summed if isinstance(one, layers.Last))
    assert any(shape.kind == "added bias" and chosen for (_, shape), chosen in products._chosen.items())
    assert check.difference(engine, check._ask_generate(settings, loaded)[0], logits) is None
    assert len(texts(engine, requests)) == 5
