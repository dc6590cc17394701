"""A checkpoint folder becomes a model, or an error of one sentence."""

import inspect
from collections.abc import Callable
from pathlib import Path

import torch

from caption.engine import EngineOptions
from caption.engine.checkpoint import first_line, read_config, refuse_remote_code
from caption.engine.errors import DoesNotLoad, ModelError, NoSafetensors, NotAVisionModel, NotFound, classify

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# The auto classes under which a checkpoint with code of its own may offer its model, best first.
REMOTE_CLASSES = ("AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForCausalLM", "AutoModel")


def load_model(options: EngineOptions) -> torch.nn.Module:
    """Load `options.model` in its dtype straight onto its device, ready to generate.

    Raises ModelError's subclasses; out of memory and errors of the device pass unchanged.
    """
    config = read_config(options.model)
    model = load_weights(options, lambda: _find_class(options.model, config, options.trust_remote_code))
    if not hasattr(model, "generate"):
        raise NotAVisionModel(f"{type(model).__name__} in {options.model} writes no text")
    return model


def load_weights(options: EngineOptions, find_class: Callable[[], type]) -> torch.nn.Module:
    """The model in its dtype, on its device, ready to compute. find_class: the class that loads it.

    Raises as load_model.
    """
    folder = options.model
    _check_weights(folder, options.allow_pickled_weights)
    try:
        model, info = find_class().from_pretrained(
            folder,
            dtype=DTYPES[options.dtype],
            use_safetensors=None if options.allow_pickled_weights else True,
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            # Onto the GPUs tensor by tensor: the model never lies whole in host memory.
            **_places(options),
        )
    except ModelError:
        raise
    except Exception as error:
        if classify(error) != "item":
            raise
        if "trust_remote_code" in str(error):
            raise refuse_remote_code(folder, "model") from error
        if options.gpus > 1 and "offload" in str(error):
            raise _too_large(options) from error
        raise DoesNotLoad(f"the model in {folder} does not load: {first_line(error)}") from error
    # transformers would fill both with random numbers, and the captions with nonsense.
    if missing := sorted(info["missing_keys"]):
        raise DoesNotLoad(f"the weights in {folder} are incomplete: {len(missing)} are missing, {missing[0]} first")
    if unlike := sorted(key for key, *_ in info["mismatched_keys"]):
        raise DoesNotLoad(f"{len(unlike)} weights in {folder} are not of the size its config says, {unlike[0]} first")
    if {"cpu", "disk"} & set(map(str, getattr(model, "hf_device_map", {}).values())):
        raise _too_large(options)
    return (model if options.device == "cuda" else model.to(options.device)).eval()


def _places(options: EngineOptions) -> dict:
    """Where the weights go: onto one GPU, or onto several in layers, by accelerate."""
    if options.device != "cuda":
        return {}
    if options.gpus == 1:
        return {"device_map": {"": 0}}
    free = {number: torch.cuda.mem_get_info(number)[0] for number in range(options.gpus)}
    return {"device_map": "balanced", "max_memory": free}


def _too_large(options: EngineOptions) -> DoesNotLoad:
    asked = f"the model in {options.model} takes more memory than {options.gpus} GPUs have free"
    return DoesNotLoad(f"{asked}: raise --gpus-per-worker")


def _check_weights(folder: str, allow_pickled: bool) -> None:
    names = [path.name for path in Path(folder).iterdir()]
    if any(name.endswith(".safetensors") for name in names):
        return
    if not any(name.endswith(".bin") for name in names):
        raise NotFound(f"{folder} holds no weights")
    if not allow_pickled:
        raise NoSafetensors(
            f"the weights in {folder} are pickle files, which can run code when they are loaded; if you trust their "
            "author, allow them with --allow-pickled-weights"
        )


def _find_class(folder: str, config: dict, trust_remote_code: bool):
    """Return the class to load with: the auto class, or the architecture that config.json names."""
    import transformers
    from transformers import AutoModelForImageTextToText
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    model_type = config.get("model_type")
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    code = config.get("auto_map", {})
    offered = [name for name in REMOTE_CLASSES if name in code]
    if offered:
        if not trust_remote_code:
            raise refuse_remote_code(folder, "model")
        return getattr(transformers, offered[0], AutoModelForImageTextToText)
    architecture = next(iter(config.get("architectures") or []), None)
    found = getattr(transformers, architecture or "", None)
    if found is None:
        if model_type in CONFIG_MAPPING_NAMES:
            raise NotAVisionModel(f"{folder} holds a {model_type} model, which makes no text from a picture")
        raise DoesNotLoad(
            f"transformers {transformers.__version__} knows no model type {model_type!r} ({folder}); a newer one may"
        )
    if not (_takes_pictures(found) and found.can_generate()):
        raise NotAVisionModel(f"{architecture} in {folder} makes no text from a picture")
    return found


def _takes_pictures(found) -> bool:
    return "pixel_values" in inspect.signature(found.forward).parameters
