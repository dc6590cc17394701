"""LoRA adapters: the words of peft's own generate, and the bare model back to the last bit."""

import importlib
import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

peft = pytest.importorskip("peft")

from caption.engine import Adapter, DoesNotFit  # noqa: E402
from caption.engine.adapters import Adapters  # noqa: E402
from caption.engine.base import load  # noqa: E402
from caption.engine.check import load_fastest  # noqa: E402
from caption.engine.generate import GenerateEngine  # noqa: E402
from caption.engine.slots import SlotEngine  # noqa: E402

from .helpers import options, set_ends  # noqa: E402
from .test_slots import requests_for, texts  # noqa: E402

CONFIGS = {
    "attention": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "all of it": {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "head": {"target_modules": ["v_proj", "lm_head"]},
    "words": {"target_modules": ["up_proj"], "modules_to_save": ["embed_tokens"]},
}


def trained(folder: str, out: Path, seed: int = 1, **config) -> str:
    """An adapter for this model as peft saves it, with numbers that change its words."""
    torch.manual_seed(seed)
    model = load(options(folder)).model
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=32, init_lora_weights=False, **config))
    for name, parameter in wrapped.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    wrapped.save_pretrained(out)
    return str(out)


def words_of_peft(folder: str, name: str, adapter: str) -> dict:
    """One picture after the other, through the adapter's own layers."""
    loaded = load(options(folder, batch_size=1))
    set_ends(loaded.model, [])
    engine = GenerateEngine(options(folder, batch_size=1), loaded)
    peft.PeftModel.from_pretrained(loaded.model, adapter)  # which wraps the layers of this very model
    assert any("lora" in key for key, _ in loaded.model.named_parameters())
    return texts(engine, requests_for(folder, name, 5))


def words(engine, folder: str, name: str) -> dict:
    set_ends(engine.model, [])
    return texts(engine, requests_for(folder, name, 5))


def weights(model) -> dict:
    return {name: value.detach().clone() for name, value in model.named_parameters(remove_duplicate=False)}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen2_vl"])
def test_the_words_of_peft_and_then_the_bare_model_to_the_last_bit(checkpoint, tmp_path, name, config):
    folder = checkpoint(name)
    adapter = trained(folder, tmp_path, **CONFIGS[config])
    expected = words_of_peft(folder, name, adapter)
    engine = SlotEngine(options(folder))
    before, bare = weights(engine.model), words(engine, folder, name)
    assert bare != expected
    engine.adapt(Adapter(adapter))
    assert words(engine, folder, name) == expected
    engine.adapt(None)
    assert same(weights(engine.model), before)
    assert words(engine, folder, name) == bare


def test_weights_that_were_one_are_two_where_an_adapter_changes_one_of_them(checkpoint, tmp_path):
    """Gemma's head is its embedding; and graphs that were captured with that one must be captured anew."""
    folder = checkpoint("gemma3")
    adapter = trained(folder, tmp_path, target_modules=["lm_head"])
    engine = SlotEngine(options(folder))
    bare, decoder = words(engine, folder, "gemma3"), engine.decoder
    embedding = engine.model.get_input_embeddings().weight.clone()
    engine.adapt(Adapter(adapter))
    assert words(engine, folder, "gemma3") == words_of_peft(folder, "gemma3", adapter) != bare
    assert torch.equal(engine.model.get_input_embeddings().weight, embedding) and engine.decoder is not decoder
    engine.adapt(None)
    assert words(engine, folder, "gemma3") == bare


def test_weights_of_the_model_that_an_adapter_brings_are_taken_and_given_back(checkpoint, tmp_path):
    folder = checkpoint("llava")
    adapter = trained(folder, tmp_path, target_modules=["lm_head"])
    engine = SlotEngine(options(folder))
    before = weights(engine.model)
    state = load_file(f"{adapter}/adapter_model.safetensors")
    [own] = [name for name in before if name.endswith("embed_tokens.weight")]
    name = f"base_model.model.{own}"  # as peft saves it where the vocabulary has grown
    state[name] = before[own] + torch.randn_like(before[own])
    save_file(state, f"{adapter}/adapter_model.safetensors")
    engine.adapt(Adapter(adapter))
    assert words(engine, folder, "llava") == words_of_peft(folder, "llava", adapter)
    assert torch.equal(engine.model.get_input_embeddings().weight, state[name])
    engine.adapt(None)
    assert same(weights(engine.model), before)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_run_s_adapter_is_merged_before_anything_is_made_of_the_weights(checkpoint, tmp_path, config):
    folder = checkpoint("qwen2_5_vl")
    adapter = trained(folder, tmp_path, **CONFIGS[config])
    engine = load_fastest(options(folder, adapter=Adapter(adapter)))
    assert engine.fallback is None
    assert words(engine, folder, "qwen2_5_vl") == words_of_peft(folder, "qwen2_5_vl", adapter)


def test_the_bare_model_comes_back_from_disk_where_nothing_was_kept(checkpoint, tmp_path):
    folder = checkpoint("llava")
    adapter = trained(folder, tmp_path, target_modules="all-linear")
    before = weights(load(options(folder)).model)
    loaded = load(options(folder, adapter=Adapter(adapter)))
    assert not same(weights(loaded.model), before) and not loaded.adapters.kept
    loaded.adapters.change(None)
    assert same(weights(loaded.model), before)


def test_one_adapter_after_the_other_leaves_nothing_of_the_first(checkpoint, tmp_path):
    folder = checkpoint("llava")
    first = trained(folder, tmp_path / "first", target_modules="all-linear")
    second = trained(folder, tmp_path / "second", seed=2, target_modules=["q_proj"])
    alone, after = load(options(folder)), load(options(folder))
    alone.adapters.change(Adapter(second))
    for adapter in (Adapter(first), Adapter(first, 0.5), Adapter(second)):
        after.adapters.change(adapter)
    assert same(weights(after.model), weights(alone.model))


@pytest.fixture
def fused(monkeypatch):
    """The module, with or without the compiler for its kernels: joining weights needs none of them."""
    if importlib.util.find_spec("triton") is None:
        monkeypatch.setitem(sys.modules, "caption.engine.kernels", types.ModuleType("kernels"))
        monkeypatch.delitem(sys.modules, "caption.engine.fused", raising=False)
    yield importlib.import_module("caption.engine.fused")
    if importlib.util.find_spec("triton") is None:
        del sys.modules["caption.engine.fused"]


def test_weights_that_were_joined_take_the_adapter_where_they_lie(checkpoint, tmp_path, fused):
    """Queries, keys and values in one product, as on a GPU."""
    folder = checkpoint("qwen2_5_vl")
    adapter = trained(folder, tmp_path, target_modules=["q_proj", "k_proj", "v_proj"])
    engine = SlotEngine(options(folder))
    bare = words(engine, folder, "qwen2_5_vl")
    with torch.inference_mode():
        joined = [undo for module in engine.model.modules() for undo in fused._joint(module)]
    assert joined
    engine.adapt(Adapter(adapter))
    assert words(engine, folder, "qwen2_5_vl") == words_of_peft(folder, "qwen2_5_vl", adapter)
    engine.adapt(None)
    assert words(engine, folder, "qwen2_5_vl") == bare


def test_a_scale_is_a_factor_on_the_adapter_s_own(checkpoint, tmp_path):
    folder = checkpoint("llava")
    adapter = trained(folder, tmp_path, target_modules=["q_proj"])
    once, half, bare = (load(options(folder)) for _ in range(3))
    once.adapters.change(Adapter(adapter))
    half.adapters.change(Adapter(adapter, 0.5))
    name = next(name for name in once.adapters.kept)
    full, part, none = (weights(one.model)[name] for one in (once, half, bare))
    assert torch.allclose(part, (full + none) / 2, atol=1e-6) and not torch.equal(full, none)


@pytest.mark.parametrize("before", [True, False])
def test_without_room_to_merge_what_texts_took_is_given_back_first(checkpoint, tmp_path, monkeypatch, before):
    folder = checkpoint("llava")
    adapter = trained(folder, tmp_path, target_modules=["q_proj"])
    engine = SlotEngine(options(folder))
    decoder, write, calls = engine.decoder, Adapters._write, []
    places = {name: value.data_ptr() for name, value in engine.model.named_parameters()}

    def no_room_at_second(*arguments):
        calls.append(1)
        if before and len(calls) == 2:
            raise torch.OutOfMemoryError("full")
        write(*arguments)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(Adapters, "_write", no_room_at_second)
    engine.adapt(Adapter(adapter))
    assert engine.decoder is not decoder
    assert {name: value.data_ptr() for name, value in engine.model.named_parameters()} == places
    assert words(engine, folder, "llava") == words_of_peft(folder, "llava", adapter)


def test_no_adapter_is_changed_below_a_text(checkpoint):
    folder = checkpoint("llava")
    engine = SlotEngine(options(folder))
    engine.admit(requests_for(folder, "llava", 1))
    with pytest.raises(ValueError, match="not at their end"):
        engine.adapt(None)


@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
def test_one_file_says_its_ranks_and_its_alpha(checkpoint, tmp_path, prefix):
    folder = checkpoint("llava")
    adapter = trained(folder, tmp_path / "whole", target_modules="all-linear", rank_pattern={"q_proj": 2})
    state = load_file(f"{adapter}/adapter_model.safetensors")
    state = {prefix + name.removeprefix("base_model.model."): value for name, value in state.items()}
    save_file(state, tmp_path / "one.safetensors", {"lora_alpha": "32"})
    save_file(state, tmp_path / "plain.safetensors")
    whole, one, plain = (load(options(folder)) for _ in range(3))
    whole.adapters.change(Adapter(adapter))
    one.adapters.change(Adapter(str(tmp_path / "one.safetensors")))
    assert same(weights(one.model), weights(whole.model))
    plain.adapters.change(Adapter(str(tmp_path / "plain.safetensors")))  # as strong as its rank
    assert not same(weights(plain.model), weights(whole.model))


def test_an_adapter_of_an_earlier_transformers_finds_its_layers(checkpoint, tmp_path):
    """There the text model of a LLaVA was language_model.model, and now it is model.language_model."""
    folder = checkpoint("llava")
    adapter = trained(folder, tmp_path, target_modules=["q_proj"])
    now = load(options(folder))
    now.adapters.change(Adapter(adapter))
    state = load_file(f"{adapter}/adapter_model.safetensors")
    old = {re.sub(r"model\.language_model\.", "language_model.model.", name, count=1): value
           for name, value in state.items() if "language_model" in name}  # fmt: skip
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["target_modules"] = r".*language_model.*\.q_proj"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(old, f"{adapter}/adapter_model.safetensors")
    then = load(options(folder))
    then.adapters.change(Adapter(adapter))
    text = [name for name in weights(now.model) if "language_model" in name]
    assert all(torch.equal(weights(now.model)[name], weights(then.model)[name]) for name in text)


MISFITS = {
    "other names": lambda state: {name.replace("q_proj", "query"): value for name, value in state.items()},
    "other sizes": lambda state: {name: value.repeat(2, 2) for name, value in state.items()},
    "half of it": lambda state: dict(list(state.items())[:3]),
    "nan": lambda state: {name: value * torch.nan for name, value in state.items()},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_one_sentence_and_leaves_the_model_as_it_was(checkpoint, tmp_path, misfit):
    folder = checkpoint("llava")
    good = trained(folder, tmp_path / "good", target_modules=["v_proj"])
    bad = Path(trained(folder, tmp_path / "bad", target_modules=["q_proj"])) / "adapter_model.safetensors"
    save_file(MISFITS[misfit](load_file(bad)), bad)
    loaded = load(options(folder))
    before = weights(loaded.model)
    loaded.adapters.change(Adapter(good))
    with pytest.raises(DoesNotFit, match="adapter") as refused:
        loaded.adapters.change(Adapter(str(bad.parent)))
    assert "\n" not in str(refused.value) and str(bad.parent) in str(refused.value)
    assert same(weights(loaded.model), before)
    assert not any("lora" in type(module).__module__ for module in loaded.model.modules())
    loaded.adapters.change(Adapter(good))
    assert isinstance(loaded.adapters, Adapters) and not same(weights(loaded.model), before)


def test_a_target_that_no_lora_can_be_put_on_leaves_nothing_behind(checkpoint, tmp_path):
    folder = checkpoint("llava")
    adapter = Path(trained(folder, tmp_path, target_modules=["q_proj"]))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj", "mlp"]}))
    loaded = load(options(folder))
    before = weights(loaded.model)
    with pytest.raises(DoesNotFit):
        loaded.adapters.change(Adapter(str(adapter)))
    assert same(weights(loaded.model), before)
    assert not any("peft" in type(module).__module__ for module in loaded.model.modules())
