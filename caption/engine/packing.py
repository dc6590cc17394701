"""Prompts of unlike lengths one behind the other, where padding would be computed like text.

And of the last layer's MLP only the last token of each, as nobody asks what comes out of the others.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from transformers import DynamicCache

from caption.engine import attention
from caption.engine.pinned import send

_told: tuple[tuple[int, int], list[int]] | None = None


@contextlib.contextmanager
def told(missing: list[int], tokens: int) -> Iterator[None]:
    """Say how much padding stands left of each prompt of `tokens`, so that nobody asks the device."""
    global _told
    _told = (len(missing), tokens), missing
    try:
        yield
    finally:
        _told = None


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
    last = _LastMlp(text)
    original = text.forward

    def forward(*args, **kwargs):
        return original(*args, **kwargs) if args else _packed(original, last, kwargs)

    def remove() -> None:
        vars(text).pop("forward")
        last.remove()

    text.forward = forward
    return remove


class _LastMlp:
    """The MLP of the text model's last layer, where it is known by its name.

    tokens: the place of each prompt's last token while prompts are computed; None: all tokens count.
    """

    def __init__(self, text: torch.nn.Module):
        layers = getattr(text, "layers", None)
        self.module = getattr(layers[-1], "mlp", None) if isinstance(layers, torch.nn.ModuleList) else None
        self.tokens: torch.Tensor | None = None
        if self.module is not None:
            self.had = vars(self.module).get("forward")
            self.original = self.module.forward
            self.module.forward = self._forward

    def run(self, forward: Callable, kwargs: dict, tokens: torch.Tensor):
        """The forward, of whose result only these tokens will be read."""
        self.tokens = tokens
        try:
            return forward(**kwargs)
        finally:
            self.tokens = None

    def _forward(self, states: torch.Tensor, *args, **kwargs):
        if self.tokens is None or args or kwargs:  # of other tokens' kinds, say
            return self.original(states, *args, **kwargs)
        made = self.original(states[:, self.tokens])
        if not torch.is_tensor(made):  # experts tell more than their answer
            return self.original(states)
        return torch.zeros_like(states).index_copy_(1, self.tokens, made)

    def remove(self) -> None:
        if self.module is not None:
            del self.module.forward
            if self.had is not None:
                self.module.forward = self.had


def _packed(original: Callable, last: _LastMlp, kwargs: dict):
    embeds, mask, cache = (kwargs.get(name) for name in ("inputs_embeds", "attention_mask", "past_key_values"))
    positions = kwargs.get("position_ids")
    prompts = embeds is not None and embeds.shape[1] > 1 and type(cache) is DynamicCache and not cache.get_seq_length()
    if not prompts:
        return original(**kwargs)
    # Padding stands on the left. Filled there: a copy from the host would have it wait for all of vision.
    ends = torch.full((1,), embeds.shape[1] - 1, device=embeds.device)
    if positions is None or mask is None or mask.shape != embeds.shape[:2]:
        return last.run(original, kwargs, ends)
    rows, tokens = mask.shape
    if _told and _told[0] == mask.shape:
        lengths = tokens - np.array(_told[1])
        kept = (np.arange(tokens) >= tokens - lengths[:, None]).reshape(-1).nonzero()[0]
    else:
        kept = mask.flatten().nonzero()[:, 0]
        lengths = mask.sum(1).cpu().numpy()
    if len(kept) == rows * tokens:  # without the mask, which others would ask whether it masks anything
        return last.run(original, {**kwargs, "attention_mask": None}, ends)
    kept = send(torch.as_tensor(kept), mask.device)

    def pack(name: str, value):
        if not torch.is_tensor(value):
            return value
        if name.endswith("position_ids"):  # [..., rows or 1, tokens]
            value = value.expand(*value.shape[:-2], rows, tokens)
            return value.flatten(-2)[..., kept].unsqueeze(-2)
        return value.flatten(0, 1)[kept][None] if value.shape[:2] == mask.shape else value

    borders = send(torch.tensor([0, *lengths.cumsum()], dtype=torch.int32), mask.device)
    attention.note_longest(borders, int(lengths.max()))
    packed = {name: pack(name, value) for name, value in kwargs.items()}
    outputs = last.run(original, {**packed, "attention_mask": borders[None, None, None]}, borders[1:].long() - 1)

    def unpack(values: torch.Tensor, place: int) -> torch.Tensor:
        """The `len(kept)` entries of this dimension, as rows and tokens."""
        shape = values.shape
        whole = values.new_zeros(*shape[:place], rows * tokens, *shape[place + 1 :]).index_copy_(place, kept, values)
        return whole.unflatten(place, (rows, tokens))

    outputs.last_hidden_state = unpack(outputs.last_hidden_state[0], 0)
    for layer in cache.layers:
        layer.keys, layer.values = (unpack(one[0], 1).transpose(0, 1) for one in (layer.keys, layer.values))
    return outputs
