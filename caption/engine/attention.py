"""Attention of one new token a row over that row's slot, on a GPU: grouped queries, and the cache is never copied."""

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "slots"


def slot_attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """query: [rows, heads, tokens, size]; key, value: [rows, groups, places, size]. Returns [rows, tokens, heads, ...].

    transformers up to 5.17 repeats keys and values for every head of a group where there is a mask: all of the cache,
    each step. The heads of a group can stand in the place of the one query token instead.
    """
    rows, heads, tokens, size = query.shape
    if tokens != 1 or attention_mask is None or attention_mask.shape[1] != 1 or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    groups = key.shape[1]
    grouped = query.view(rows, groups, heads // groups, size)
    output = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(rows, 1, heads, value.shape[-1]), None


def remove(model: torch.nn.Module) -> None:
    """Undo `install`."""
    model.set_attn_implementation({"text_config": "sdpa"})


def install(model: torch.nn.Module) -> bool:
    """Let the text model attend so, if it uses torch's attention now. Returns whether it does."""
    AttentionInterface.register(NAME, slot_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    if model.config.get_text_config(decoder=True)._attn_implementation != "sdpa" or model.config.is_encoder_decoder:
        return False
    try:
        model.set_attn_implementation({"text_config": NAME})
    except (ValueError, KeyError, AttributeError):  # a model whose parts can't be told apart keeps its own
        return False
    return model.config.get_text_config(decoder=True)._attn_implementation == NAME
