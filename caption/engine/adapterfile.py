"""An adapter's files become what peft takes: its config, and its weights by name."""

import json
import re
from collections.abc import Container
from pathlib import Path

import torch

from caption.engine.checkpoint import first_line
from caption.engine.errors import DoesNotFit

_PREFIX = "base_model.model."
_OWN_SCALE = ("lora_alpha", "alpha", "ss_network_alpha")  # where the header of a file has it


def read_adapter(place: str, renamed: dict[str, str] | None) -> tuple[object, dict[str, torch.Tensor]]:
    """peft's config and the state dict, in host memory.

    place: a folder as peft saves it, or one safetensors file. renamed: the model's patterns for weights that had
    another name in earlier versions of transformers. Raises DoesNotFit.
    """
    try:
        import peft
        from peft.utils.save_and_load import load_peft_weights
    except ImportError as error:
        raise DoesNotFit(f"peft can't be imported ({first_line(error)}): pip install -U peft") from error
    try:
        if Path(place).is_file():
            return _read_file(place)
        config = peft.PeftConfig.from_pretrained(place)
        config.inference_mode = True
        return config, load_peft_weights(place, device="cpu", key_mapping=renamed)
    except Exception as error:
        raise DoesNotFit(f"can't read the LoRA adapter {place}: {first_line(error)}") from error


def _read_file(place: str) -> tuple[object, dict[str, torch.Tensor]]:
    """Ranks stand in the shapes; alpha beside the weights or in the header, else it is the rank."""
    import peft
    from safetensors import safe_open

    with safe_open(place, "pt", device="cpu") as file:
        header, names = file.metadata() or {}, list(file.keys())
        found = {name: file.get_tensor(name) for name in names}
    state = {}
    for name, value in found.items():  # an adapter's own name may stand between: lora_A.default.weight
        name = re.sub(r"(\.lora_[AB])\.(?!weight$|bias$)\w+(?=\.)", r"\1", name)
        state[name if name.startswith(_PREFIX) else _PREFIX + name] = value
    alphas = {_layer(name): float(state.pop(name)) for name in list(state) if name.endswith(".alpha")}
    ranks = {_layer(name): len(value) for name, value in state.items() if name.endswith(".lora_A.weight")}
    told = next((float(header[name]) for name in _OWN_SCALE if name in header), None)
    if "lora_adapter_metadata" in header:
        told = json.loads(header["lora_adapter_metadata"]).get("lora_alpha", told)
    alphas = {layer: alphas.get(layer, told or rank) for layer, rank in ranks.items()}
    layer = next(iter(ranks))
    return peft.LoraConfig(
        r=ranks[layer],
        lora_alpha=alphas[layer],
        rank_pattern={re.escape(name): rank for name, rank in ranks.items()},
        alpha_pattern={re.escape(name): alpha for name, alpha in alphas.items()},
        target_modules=list(ranks),
        use_dora=any("lora_magnitude_vector" in name for name in state),
        inference_mode=True,
    ), state


def own_weights(config, state: dict[str, torch.Tensor], names: Container[str]) -> dict[str, torch.Tensor]:
    """Take out of the state what is no adapter's but a weight of the model itself, one of these names."""
    saved = set(config.modules_to_save or ())
    found = {}
    for key in list(state):
        name = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
        if name in names and not saved & set(name.split(".")):
            found[name] = state.pop(key)
    return found


def _layer(name: str) -> str:
    return re.sub(r"\.(lora_A\.weight|alpha)$", "", name.removeprefix(_PREFIX))
