"""Prompts of unlike lengths one behind the other, where padding would be computed like text."""

from collections.abc import Callable

import torch
from transformers import DynamicCache

from caption.engine import attention


def install(model: torch.nn.Module) -> Callable[[], None] | None:
    """Let the text model take padded prompts packed. Return what undoes it; None where it can't be done.

    Before and behind it nothing changes: it gets [rows, tokens, ...] with padding, and gives back the same with zeros
    in the padding's place, and so its cache. It must attend as attention.install lets it.
    """
    config = model.config.get_text_config(decoder=True)
    text = model.get_decoder()
    while text.get_decoder() is not text:  # a model with a head of its own
        text = text.get_decoder()
    kinds = set(getattr(config, "layer_types", None) or ())
    if config._attn_implementation != attention.NAME or text is model or len(kinds) > 1:
        return None
    original = text.forward

    def forward(*args, **kwargs):
        return original(*args, **kwargs) if args else _packed(original, kwargs)

    text.forward = forward
    return lambda: vars(text).pop("forward")


def _packed(original: Callable, kwargs: dict):
    embeds, mask, cache = (kwargs.get(name) for name in ("inputs_embeds", "attention_mask", "past_key_values"))
    positions = kwargs.get("position_ids")
    prompts = embeds is not None and embeds.shape[1] > 1 and type(cache) is DynamicCache and not cache.get_seq_length()
    if not prompts or positions is None or mask is None or mask.shape != embeds.shape[:2]:
        return original(**kwargs)
    rows, tokens = mask.shape
    lengths = mask.sum(1)
    kept = mask.flatten().nonzero()[:, 0]
    if len(kept) == rows * tokens:
        return original(**kwargs)

    def pack(name: str, value):
        if not torch.is_tensor(value):
            return value
        if name.endswith("position_ids"):  # [..., rows or 1, tokens]
            value = value.expand(*value.shape[:-2], rows, tokens)
            return value.flatten(-2)[..., kept].unsqueeze(-2)
        return value.flatten(0, 1)[kept][None] if value.shape[:2] == mask.shape else value

    borders = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    packed = {name: pack(name, value) for name, value in kwargs.items()}
    outputs = original(**{**packed, "attention_mask": borders[None, None, None]})

    def unpack(values: torch.Tensor, place: int) -> torch.Tensor:
        """The `len(kept)` entries of this dimension, as rows and tokens."""
        shape = values.shape
        whole = values.new_zeros(*shape[:place], rows * tokens, *shape[place + 1 :]).index_copy_(place, kept, values)
        return whole.unflatten(place, (rows, tokens))

    outputs.last_hidden_state = unpack(outputs.last_hidden_state[0], 0)
    for layer in cache.layers:
        layer.keys, layer.values = (unpack(one[0], 1).transpose(0, 1) for one in (layer.keys, layer.values))
    return outputs
