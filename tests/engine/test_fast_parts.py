"""The engine with its kernels. On a GPU; without one, in Triton's interpreter where TRITON_INTERPRET=1 is set."""

import os

import pytest
import torch

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (torch.cuda.is_available() or INTERPRETED):
    pytest.skip("kernels need a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from caption.engine import attention, fused  # noqa: E402
from caption.engine.base import load  # noqa: E402
from caption.engine.decoder import Decoder  # noqa: E402
from caption.engine.generate import GenerateEngine  # noqa: E402
from caption.engine.slotcache import SlotLayer  # noqa: E402
from caption.engine.slots import SlotEngine  # noqa: E402

from .helpers import options  # noqa: E402
from .test_slots import requests_for, texts  # noqa: E402

pytestmark = [] if INTERPRETED else pytest.mark.gpu
DEVICE = "cpu" if INTERPRETED else "cuda"


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
    assert texts(SlotEngine(settings, loaded, graphs=False), requests) == expected
    for one in undo:
        one()
    assert not any("forward" in vars(module) for module in loaded.model.modules())
    assert texts(GenerateEngine(settings, loaded), requests) == expected


@pytest.mark.parametrize(("act", "faster"), [("tanh", True), ("none", False)])
def test_two_layers_are_joined_where_their_activation_is_the_one_that_cublas_knows(act, faster):
    class Mlp(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = torch.nn.Linear(24, 48), torch.nn.Linear(48, 24)
            self.activation_fn = torch.nn.GELU(approximate=act)

        def forward(self, states):
            return self.fc2(self.activation_fn(self.fc1(states)))

    mlp = Mlp().to(DEVICE, torch.float16).eval()
    states = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)).to(DEVICE, torch.float16)
    with torch.inference_mode():
        expected, forward = mlp(states), fused._two_layers(mlp)
        assert (forward is not None) == faster
        if faster:
            torch.testing.assert_close(forward(states), expected, rtol=5e-3, atol=5e-3)
