"""The first forward of a group of pictures and prompts, prepared by the model's own generate."""

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from transformers import EncoderDecoderCache, EosTokenCriteria, MaxLengthCriteria, StaticCache
from transformers.cache_utils import Cache

from caption.engine import EngineOptions, attention, packing
from caption.engine.rows import RowProcessors, Unsupported
from caption.engine.slotcache import plain_cache, prompt_cache


@dataclass(frozen=True)
class Prefilled:
    """What a model leaves behind after the prompts of a group, and how it wants its next step."""

    inner: torch.nn.Module  # what decodes: the model, or a text model inside it
    logits: torch.Tensor  # fp32[rows, vocabulary], of the first new token
    ids: torch.Tensor  # int64[rows, prompt], padding included
    shift: torch.Tensor | None  # int64[rows]: how much padding stands left of each prompt; None: none at all
    lengths: list[int]  # places that each row fills in the cache
    cache: Cache
    step: dict  # the keywords of the next forward, as the model prepares them
    mask_layers: tuple[str, ...] | None  # the kinds of layers, where the model wants a mask for each
    processors: RowProcessors
    ends: tuple[int, ...]  # the ids that end a text


class Prefill:
    """Handed to generate as `custom_generate`; keeps its results in `done`. Raises Unsupported.

    missing: how much of each row of the mask is padding; None: the device is asked, and waited for.
    """

    def __init__(self, options: EngineOptions, missing: list[int] | None = None):
        self.options, self.missing = options, missing
        self.done: Prefilled | None = None

    def __call__(self, model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
        for criterion in stopping_criteria:
            if not isinstance(criterion, (MaxLengthCriteria, EosTokenCriteria)):
                raise Unsupported(f"its generation_config asks for {type(criterion).__name__}")
        if not kwargs.get("use_cache", True):
            raise Unsupported("its generation_config forbids a cache")
        decoder_only = not model.config.is_encoder_decoder
        mask = kwargs.get("attention_mask") if decoder_only else None
        both = isinstance(kwargs.get("past_key_values"), EncoderDecoderCache)
        text = model.config.get_text_config(decoder=True)
        own = prompt_cache(text, attention.by_kernels(text, input_ids.device))
        kwargs["past_key_values"] = EncoderDecoderCache(own, plain_cache()) if both else own
        padding = None if mask is None else (mask == 0).sum(1)
        if padding is None:
            missing = [0] * len(input_ids)
        else:
            missing = padding.tolist() if self.missing is None else self.missing
        with packing.told(missing, input_ids.shape[1]):
            outputs = model._prefill(input_ids, generation_config, kwargs)
        cache = outputs.past_key_values
        logits = outputs.logits[:, -1].float()
        kwargs = model._update_model_kwargs_for_generation(outputs, kwargs, is_encoder_decoder=not decoder_only)
        grown = torch.cat([input_ids, logits.argmax(-1, keepdim=True)], 1)
        step = model.prepare_inputs_for_generation(grown, next_sequence_length=1, **kwargs)
        filled = cache.get_seq_length()
        ends = generation_config.eos_token_id
        self.done = Prefilled(
            model,
            logits,
            input_ids,
            padding if any(missing) else None,
            [filled - short for short in missing],
            cache,
            step,
            _mask_layers(model, grown, kwargs) if decoder_only else None,
            RowProcessors(logits_processor, self.options, input_ids.shape[1]),
            tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
        )
        return input_ids


def _mask_layers(model, ids: torch.Tensor, kwargs: dict) -> tuple[str, ...] | None:
    """Whether the model's forward takes one ready-made mask, or one for each kind of layer.

    The model says so itself where its cache has a fixed size: then it makes the masks before the forward. It is asked
    once, as it waits for the device.
    """
    if model in _asked:
        return _asked[model]
    cache = StaticCache(config=model.config.get_text_config(decoder=True), max_cache_len=ids.shape[1])
    step = model.prepare_inputs_for_generation(ids, next_sequence_length=1, **{**kwargs, "past_key_values": cache})
    masks = step.get("attention_mask")
    _asked[model] = tuple(masks) if isinstance(masks, Mapping) else None
    return _asked[model]


_asked: WeakKeyDictionary[torch.nn.Module, tuple[str, ...] | None] = WeakKeyDictionary()
