"""Attention where rows are of unlike lengths: one new token over each slot, prompts one behind the other, and the
windows of a picture. Nothing is padded, and the cache is never copied.

transformers calls an attention function by the name in a config; the two names here are ours. What a call is about
stands in its mask, which passes through all models unchanged if it has four dimensions: [rows, 1, 1, 2] of int32 are
the first place and the end that each row sees, [1, 1, 1, rows + 1] of int32 the borders between packed prompts.
"""

import inspect
import itertools
from collections.abc import Callable

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask, sdpa_mask

from caption.engine.rows import Unsupported

NAME = "slots"
# A vision tower hands over the borders of its windows only to what has "flash" in its name.
VISION_NAME = "slots_flash"
HALVES = (torch.float16, torch.bfloat16)


def by_kernels(config, device: torch.device) -> bool:
    """Whether a text model of this config attends by our kernels there."""
    return device.type == "cuda" and config._attn_implementation == NAME


def slot_attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """query: [rows, heads, tokens, size]; key, value: [rows, groups, places, size]. Returns [rows, tokens, heads, ...].

    Raises Unsupported for what only some models ask of attention, and none of the ways here gives.
    """
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        if unknown := [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]:
            raise Unsupported(f"its attention asks for {unknown[0]}")
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        if query.shape[2] == 1:
            from caption.engine import kernels

            output = kernels.attend(query[:, :, 0], key, value, attention_mask.view(-1, 2), scaling)
            return output[:, None], None
        window = kwargs.get("sliding_window")
        return _packed(query, key, value, attention_mask.flatten(), scaling, (window - 1 if window else -1, 0)), None
    if query.shape[2] == 1 and attention_mask is not None and attention_mask.shape[1] == 1:
        return _grouped(query, key, value, attention_mask, scaling), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)


def _grouped(query, key, value, mask, scaling) -> torch.Tensor:
    """One token a row under a mask. The heads of a group stand in the place of the one token.

    transformers up to 5.17 repeats keys and values for every head of a group where there is a mask: all of the cache,
    each step.
    """
    rows, heads, _, size = query.shape
    groups = key.shape[1]
    grouped = query.view(rows, groups, heads // groups, size)
    output = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return output.reshape(rows, 1, heads, value.shape[-1])


def _packed(query, key, value, borders, scaling, window: tuple[int, int]) -> torch.Tensor:
    """Sequences one behind the other, [1, heads, tokens, size], each seeing itself only; window as varlen_attn's."""
    if query.is_cuda and query.dtype in HALVES:
        from torch.nn.attention.varlen import varlen_attn

        takes = inspect.signature(varlen_attn).parameters
        grouped = {"enable_gqa": True} if "enable_gqa" in takes and query.shape[1] != key.shape[1] else {}
        states = (one[0].transpose(0, 1) for one in (query, key, value))
        longest = _longest(borders)
        made = varlen_attn(*states, borders, borders, longest, longest, scale=scaling, window_size=window, **grouped)
        return made[None]
    made = []
    ends = borders.tolist()
    for begin, end in itertools.pairwise(ends):
        mask = None
        if 0 <= window[0] < end - begin - 1:
            place = torch.arange(end - begin, device=query.device)
            mask = (place <= place[:, None]) & (place >= place[:, None] - window[0])
        parts = (one[:, :, begin:end] for one in (query, key, value))
        causal = {"is_causal": True} if window[1] == 0 and mask is None else {"attn_mask": mask}
        made.append(
            torch.nn.functional.scaled_dot_product_attention(*parts, scale=scaling, enable_gqa=True, **causal)
        )
    return torch.cat(made, 2).transpose(1, 2)


def _longest(borders: torch.Tensor) -> int:
    """Asked once for the same borders, as the answer makes the host wait; layers hand on one tensor, and its views."""
    if _measured[0] != (borders.data_ptr(), len(borders)):
        note_longest(borders, int((borders[1:] - borders[:-1]).max()))
    return _measured[1]


def note_longest(borders: torch.Tensor, longest: int) -> None:
    """Say how long the longest of packed prompts is, where the host knows."""
    global _measured
    _measured = ((borders.data_ptr(), borders.numel()), longest, borders)  # held, so that no other gets its address


_measured: tuple = (None, 0, None)


def window_attention(
    module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, max_length_q=None, **kwargs
):
    """Of a vision tower: pictures and their windows one behind the other, [1, heads, tokens, size]."""
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    count, longest = len(cu_seq_lens_q) - 1, int(max_length_q)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    states = (one[0].transpose(0, 1) for one in (query, key, value))
    borders = cu_seq_lens_q.to(torch.int32)
    from caption.engine import kernels

    if longest <= kernels.WINDOW:
        return kernels.attend_windows(*states, borders, longest, scaling)[None], None
    if count * longest == query.shape[2]:  # all alike: for those torch has faster kernels
        parts = (one[0].unflatten(1, (count, -1)).transpose(0, 1) for one in (query, key, value))
        made = torch.nn.functional.scaled_dot_product_attention(*parts, scale=scaling)
        return made.transpose(1, 2).flatten(0, 1)[None], None
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(*states, borders, borders, longest, longest, scale=scaling)[None], None


def install(model: torch.nn.Module) -> Callable[[], None]:
    """Let the model attend so wherever it uses torch's attention now. Return what undoes it."""
    AttentionInterface.register(NAME, slot_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    AttentionInterface.register(VISION_NAME, window_attention)
    AttentionMaskInterface.register(VISION_NAME, flash_attention_mask)
    changed = []

    def change(config, name: str) -> None:
        if config._attn_implementation == "sdpa":
            changed.append(config)
            config._attn_implementation = name

    if not model.config.is_encoder_decoder:
        change(model.config.get_text_config(decoder=True), NAME)
    if model.device.type == "cuda" and model.dtype in HALVES:
        for module in model.modules():
            config = getattr(module, "config", None)
            if config is not None and "cu_seqlens" in inspect.signature(type(module).forward).parameters:
                change(config, VISION_NAME)

    def remove() -> None:
        for config in changed:
            config._attn_implementation = "sdpa"

    return remove
