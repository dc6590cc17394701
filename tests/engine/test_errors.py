"""Each way in which a model can't be used is one sentence, told by its class."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from caption.engine import (
    DoesNotLoad,
    ModelError,
    NeedsRemoteCode,
    NoSafetensors,
    NotAVisionModel,
    NotFound,
    Request,
    classify,
    load_engine,
    load_preparer,
)

from .helpers import caption_all, options, picture


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of a working checkpoint, to break."""
    return Path(shutil.copytree(checkpoint("llava"), tmp_path / "model"))


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def refused(error: type[ModelError], folder: Path, load=load_engine, **changes) -> str:
    with pytest.raises(error) as caught:
        load(options(str(folder), **changes))
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message
    assert classify(caught.value) == "model"
    return message


def test_no_folder(tmp_path):
    for load in (load_engine, load_preparer):
        refused(NotFound, tmp_path / "nowhere", load)


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(NotFound, folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(NotFound, folder)


def test_broken_config(folder):
    (folder / "config.json").write_text('{"model_type": ')
    refused(DoesNotLoad, folder)


def test_cut_weights(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused(DoesNotLoad, folder)


def test_missing_weights(folder):
    """transformers only warns, and captions with random numbers."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "vision" in name)
    del weights[gone]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "missing" in refused(DoesNotLoad, folder)


def test_weights_of_another_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config={**config["text_config"], "intermediate_size": 100})
    assert "size" in refused(DoesNotLoad, folder)


def test_pickled_weights_only_when_allowed(folder):
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "--allow-pickled-weights" in refused(NoSafetensors, folder)
    settings = options(str(folder), allow_pickled_weights=True)
    inputs = load_preparer(settings).prepare(picture(0))
    assert caption_all(load_engine(settings), [Request(0, inputs, 0)])[0].tokens


def test_safetensors_are_taken_where_both_lie(folder):
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    load_engine(options(str(folder)))


@pytest.mark.parametrize("model_type", ["bert", "llama", "clip", "vit"])
def test_a_model_without_pictures_or_without_text(folder, model_type):
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    config = AutoConfig.for_model(model_type).to_dict()
    names = {"llama": "LlamaForCausalLM", "vit": "ViTForImageClassification"}
    names = [names.get(model_type, MODEL_MAPPING_NAMES[model_type])]
    (folder / "config.json").write_text(json.dumps({**config, "architectures": names}))
    refused(NotAVisionModel, folder)


def test_the_architecture_stands_in_for_the_model_type(folder):
    edit(folder / "config.json", model_type=None)
    assert load_engine(options(str(folder))).describe()["model"] == "LlavaForConditionalGeneration"


def test_an_unknown_model_type(folder):
    edit(folder / "config.json", model_type="of_tomorrow", architectures=["OfTomorrow"])
    assert "newer" in refused(DoesNotLoad, folder)


CODE = """
from transformers import LlavaConfig, LlavaForConditionalGeneration

class OwnConfig(LlavaConfig):
    model_type = "own"

class OwnModel(LlavaForConditionalGeneration):
    config_class = OwnConfig
"""


@pytest.mark.parametrize("auto_class", ["AutoModelForImageTextToText", "AutoModelForCausalLM"])
def test_remote_code_only_when_allowed(folder, auto_class):
    from safetensors.torch import save_file

    engine = load_engine(options(str(folder)))
    # As the class names its weights: older names are mapped for model types that transformers knows only.
    save_file(engine.model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    (folder / "own.py").write_text(CODE)
    auto_map = {"AutoConfig": "own.OwnConfig", auto_class: "own.OwnModel"}
    edit(folder / "config.json", model_type="own", architectures=["OwnModel"], auto_map=auto_map)
    assert "--trust-remote-code" in refused(NeedsRemoteCode, folder)
    settings = options(str(folder), trust_remote_code=True)
    inputs = load_preparer(settings).prepare(picture(0))
    engine = load_engine(settings)
    assert engine.describe()["model"] == "OwnModel"
    assert caption_all(engine, [Request(0, inputs, 0)])[0].tokens


def test_a_remote_processor_only_when_allowed(folder):
    (folder / "own_processor.py").write_text(
        "from transformers import LlavaProcessor\n\nclass OwnProcessor(LlavaProcessor):\n    pass\n"
    )
    auto_map = {"AutoProcessor": "own_processor.OwnProcessor"}
    edit(folder / "processor_config.json", processor_class="OwnProcessor", auto_map=auto_map)
    assert "--trust-remote-code" in refused(NeedsRemoteCode, folder, load_preparer)
    preparer = load_preparer(options(str(folder), trust_remote_code=True))
    assert preparer.prepare(picture(0))["input_ids"].shape[0] == 1


def test_no_processor(folder):
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).unlink()
    refused(DoesNotLoad, folder, load_preparer)


def test_no_tokenizer(folder):
    for path in folder.glob("token*"):
        path.unlink()
    refused(DoesNotLoad, folder, load_preparer)


def test_what_an_exception_means():
    assert classify(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")) == "memory"
    assert classify(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")) == "memory"
    assert classify(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")) == "memory"
    assert classify(MemoryError()) == "memory"
    assert classify(RuntimeError("CUDA error: device-side assert triggered")) == "device"
    assert classify(torch.AcceleratorError("CUDA error: an illegal memory access was encountered")) == "device"
    assert classify(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")) == "device"
    assert classify(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")) == "item"
    assert classify(ValueError("a picture about a CUDA error")) == "item"
    assert classify(NotFound("gone")) == "model"
