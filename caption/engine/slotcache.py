"""Keys and values of the slots: [rows, heads, capacity, head size] a layer, each row filled to a length of its own.

And the states of layers without keys and values, such as linear attention.
"""

import functools
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
    LinearAttentionLayer,
    StaticLayer,
)

from caption.engine.eights import in_eights
from caption.engine.rows import Unsupported

# What configs call layers that sum a text up in a state, where others keep its tokens.
STATEFUL = {"linear_attention", "conv"}


def grown(tensor: torch.Tensor, *shape: int) -> torch.Tensor:
    """`tensor`, in each dimension at least as large as `shape` says, what is new filled with zeros."""
    shape = tuple(max(old, new) for old, new in zip(tensor.shape, shape, strict=True))
    if shape == tensor.shape:
        return tensor
    larger = tensor.new_zeros(shape)
    larger[tuple(slice(size) for size in tensor.shape)] = tensor
    return larger


class PromptLayer(DynamicLayer):
    """A layer that keeps the states of the prompts as they come, where DynamicLayer puts a copy behind nothing.

    kernels: whether copies are made by a kernel of ours.
    """

    def __init__(self, kernels: bool = False):
        super().__init__()
        self.kernels = kernels

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        self.lazy_initialization(key_states, value_states)
        self.keys, self.values = (_alone(states, self.kernels) for states in (key_states, value_states))
        return self.keys, self.values


def plain_cache(kernels: bool = False) -> DynamicCache:
    """An empty cache that keeps every token, where layers of sliding windows would drop some.

    kernels: as PromptLayer's.
    """
    cache = DynamicCache()
    cache.layer_class_to_replicate = functools.partial(PromptLayer, kernels)
    return cache


def prompt_cache(config: PreTrainedConfig, kernels: bool) -> DynamicCache:
    """The same, with places for states in the layers that keep those instead. config: of the text model."""
    if not STATEFUL & set(getattr(config, "layer_types", None) or ()):
        return plain_cache(kernels)
    cache = DynamicCache(config=config)
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [PromptLayer(kernels) if type(layer) in plain else layer for layer in cache.layers]
    return cache


def _alone(states: torch.Tensor, by_kernel: bool) -> torch.Tensor:
    """The same, [rows, heads, tokens, size], holding no more memory than its own.

    Where it is copied, the heads of a token lie side by side, as products leave them.
    """
    if states.untyped_storage().nbytes() == states.nbytes:
        return states
    if by_kernel:
        from caption.engine import kernels

        return kernels.copied(states)
    return in_eights(states.transpose(1, 2)).contiguous().view(states.dtype).transpose(1, 2)


class SlotLayer(StaticLayer):
    """A layer to which each row adds its one new token at the end of its own text.

    `part` is how many rows models compute, and `view` how many places they see, so that attention never reads far
    beyond the longest text. kernels: whether attention reads each row's own range, so that it gets all.
    """

    def __init__(self, positions: torch.Tensor, like: DynamicLayer, kernels: bool):
        super().__init__(max_cache_len=0)
        self.positions, self.view, self.part, self.kernels = positions, 0, 0, kernels
        self.keys = like.keys.new_zeros(0, like.keys.shape[1], 0, like.keys.shape[3])
        self.values = like.values.new_zeros(0, like.values.shape[1], 0, like.values.shape[3])
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if key_states.shape[2] != 1:
            raise Unsupported("its decoder takes more than one token a step")
        keys, values, positions = (whole[: self.part] for whole in (self.keys, self.values, self.positions))
        if self.kernels:
            from caption.engine import kernels

            kernels.append(keys, values, key_states[:, :, 0], value_states[:, :, 0], positions)
            return keys, values
        rows, positions = torch.arange(self.part, device=keys.device), positions.to(keys.device)
        keys[rows, :, positions] = key_states[:, :, 0]
        values[rows, :, positions] = value_states[:, :, 0]
        return keys[:, :, : self.view], values[:, :, : self.view]

    def get_seq_length(self) -> torch.Tensor:
        """int64[rows, 1]: only models that ignore position_ids ask (see families.fit_positions)."""
        return self.positions[: self.part, None]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.view, 0


class CrossLayer(DynamicLayer):
    """Keys and values of an encoder's output, in a decoder's cross attention: written once a text."""

    def __init__(self, like: DynamicLayer):
        super().__init__()
        self.keys, self.values = like.keys[:0], like.values[:0]
        self.is_initialized = True


class StateLayer(LinearAttentionLayer):
    """A layer that sums up each row's text in states of a fixed size: linear attention, or a convolution's last tokens.

    Each step replaces them, for a row whose text has ended as well: nobody reads those again.
    """

    def __init__(self, like: LinearAttentionLayer):
        super().__init__(number_of_states=like.number_of_states)
        self.states = {key: state[:0].clone() for key, state in states_of(like).items()}
        self.has_previous_state = dict.fromkeys(self.has_previous_state, True)
        for name in ("is_conv_states_initialized", "is_recurrent_states_initialized", "conv_kernel_size"):
            setattr(self, name, dict(getattr(like, name)))
        self.device, self.dtype = like.device, like.dtype

    def show(self, part: int) -> None:
        """Let models see, and replace, the first `part` rows."""
        for (kind, number), state in self.states.items():
            getattr(self, kind)[number] = state[:part]


class SlotCache:
    """The cache of all slots, made after the pattern of one that a model has filled.

    positions: int64[rows], where the next token of each row goes. pattern: a DynamicCache, or two of them. kernels: as
    SlotLayer's.
    """

    def __init__(self, positions: torch.Tensor, pattern: Cache, kernels: bool = False):
        found = parts(pattern)
        self.layers = [SlotLayer(positions, layer, kernels) for layer in found.own]
        self.cross = [CrossLayer(layer) for layer in found.cross]
        self.states = [StateLayer(layer) for layer in found.states]
        own, states = iter(self.layers), iter(self.states)
        self.order = [next(states if linear else own) for linear in found.linear]

    def grow(self, positions: torch.Tensor, rows: int, capacity: int) -> None:
        for layer in (*self.layers, *self.cross):
            size = capacity if isinstance(layer, SlotLayer) else 0
            layer.keys = grown(layer.keys, rows, 0, size, 0)
            layer.values = grown(layer.values, rows, 0, size, 0)
        for layer in self.layers:
            layer.positions = positions
        for layer in self.states:
            for key, state in layer.states.items():
                layer.states[key] = grown(state, rows, *[0] * (state.dim() - 1))

    def write(self, rows: torch.Tensor, filled: Cache, shift: torch.Tensor | None) -> None:
        """Copy a filled cache into these rows. shift: int64[rows], how far each stands from the left edge, for padding.

        What follows a row's end is anything; the mask hides it until it is overwritten.
        """
        found = parts(filled)
        for layer, source in zip(self.layers, found.own, strict=True):
            length, rows = source.keys.shape[2], rows.to(source.keys.device)  # each where the model has that layer
            for ours, theirs in ((layer.keys, source.keys), (layer.values, source.values)):
                if layer.kernels:
                    from caption.engine import kernels

                    kernels.fill(ours, theirs, rows, shift)
                    continue
                if shift is not None:
                    shift = shift.to(theirs.device)
                    place = (torch.arange(length, device=shift.device) + shift[:, None]).clamp(max=length - 1)
                    theirs = theirs.gather(2, place[:, None, :, None].expand_as(theirs))
                ours[rows, :, :length] = theirs
        for layer, source in zip(self.cross, found.cross, strict=True):
            length, rows = source.keys.shape[2], rows.to(source.keys.device)
            layer.keys = grown(layer.keys, 0, 0, length, 0)
            layer.values = grown(layer.values, 0, 0, length, 0)
            layer.keys[rows, :, :length], layer.values[rows, :, :length] = source.keys, source.values
        for layer, source in zip(self.states, found.states, strict=True):
            for key, state in states_of(source).items():
                layer.states[key][rows.to(state.device)] = state

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy rows onto others; none of cross attention."""
        for layer in self.layers:
            source, target = source.to(layer.keys.device), target.to(layer.keys.device)
            layer.keys[target], layer.values[target] = layer.keys[source], layer.values[source]
        self.set_states(target, self.states_in(source))

    def states_in(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Copies of what no position tells apart, and each step replaces."""
        return [state[rows.to(state.device)] for state in self._states()]

    def set_states(self, rows: torch.Tensor, states: list[torch.Tensor]) -> None:
        for ours, state in zip(self._states(), states, strict=True):
            ours[rows.to(state.device)] = state

    def _states(self) -> Iterator[torch.Tensor]:
        for layer in self.states:
            yield from layer.states.values()

    @property
    def nbytes(self) -> Counter[torch.device]:
        """What it takes on each device."""
        taken = Counter()
        for layer in (*self.layers, *self.cross):
            taken[layer.keys.device] += layer.keys.nbytes + layer.values.nbytes
        for state in self._states():
            taken[state.device] += state.nbytes
        return taken

    def clear(self, row: int) -> None:
        """Forget a row in which NaN stands: a mask gives it no weight, but nothing times NaN is NaN."""
        for layer in (*self.layers, *self.cross):
            layer.keys[row].zero_()
            layer.values[row].zero_()
        for state in self._states():
            state[row].zero_()

    def seen(self, view: int, part: int) -> Cache:
        """The cache as models take it: the first `part` rows, `view` places long."""
        for layer in self.layers:
            layer.view = layer.max_cache_len = view
            layer.part = part
        for layer in self.states:
            layer.show(part)
        own = Cache(layers=self.order)
        return EncoderDecoderCache(own, Cache(layers=self.cross)) if self.cross else own


class Parts(NamedTuple):
    """Layers of a cache: of self attention, of cross attention, and those that keep states instead.

    linear: of each of self attention's and those with states, in the model's order, whether it is one of the latter.
    """

    own: list[DynamicLayer]
    cross: list[DynamicLayer]
    states: list[LinearAttentionLayer]
    linear: list[bool]


def parts(cache: Cache) -> Parts:
    """Raises Unsupported where a layer is of another kind."""
    both = isinstance(cache, EncoderDecoderCache)
    layers = cache.self_attention_cache.layers if both else cache.layers
    cross = cache.cross_attention_cache.layers if both else []
    linear = [type(layer) is LinearAttentionLayer for layer in layers]
    own = [layer for layer, other in zip(layers, linear) if not other]
    if unlike := [layer for layer in (*own, *cross) if type(layer) not in (DynamicLayer, PromptLayer)]:
        raise Unsupported(f"it keeps a {type(unlike[0]).__name__} in its cache")
    if len({layer.get_seq_length() for layer in own}) != 1:
        raise Unsupported("its layers don't all keep the same tokens in the cache")
    return Parts(own, cross, [layer for layer, other in zip(layers, linear) if other], linear)


def states_of(layer: LinearAttentionLayer) -> dict[tuple[str, int], torch.Tensor]:
    """By kind and number, [rows, ...] each."""
    return {
        (kind, number): state
        for kind in ("conv_states", "recurrent_states")
        for number, state in getattr(layer, kind).items()
        if state is not None
    }
