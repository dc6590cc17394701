"""Features of whole tiles (SmolVLM, Idefics 3), made without most waits of the host for the device.

The models ask the device which of their tiles are none, which patches are masked, and which tokens are a picture's. The
last of these questions is answered behind all of vision: until then the host can't go on, and then the text's first
kernels, the steps behind them and the next group come late. Here the first is asked alone, before vision begins.
"""

import functools
from collections.abc import Callable

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from caption.engine.eights import in_eights
from caption.engine.families import MADE_OF_ONES
from caption.engine.owned import owning


def install(model: torch.nn.Module) -> Callable[[], None]:
    """Let the model make features so where it gets no masks of patches. Return what undoes it."""
    changed = []
    for module in model.modules():
        kind = getattr(getattr(module, "config", None), "model_type", None)
        if kind not in MADE_OF_ONES or not all(hasattr(module, part) for part in ("vision_model", "connector")):
            continue
        faster = {"get_image_features": functools.partial(_features, module, module.get_image_features, {})}
        # Which of the two there is changes with transformers' version.
        for name, merge in (("inputs_merger", _merged), ("get_placeholder_mask", _placeholders)):
            if hasattr(module, name):
                faster[name] = functools.partial(merge, module, getattr(module, name))
        made = [(module, name, method) for name, method in faster.items()]
        if shuffle := getattr(module.connector, "pixel_shuffle", None):
            made.append((module.connector, "pixel_shuffle", functools.partial(_shuffled, shuffle)))
        for owner, name, method in made:
            setattr(owner, name, method)
            changed.append((owner, name))

    def remove() -> None:
        for owner, name in changed:
            delattr(owner, name)

    return remove


def _features(model, original, known, pixel_values, pixel_attention_mask=None, **kwargs):
    """pixel_values: [rows, tiles, channels, height, width], tiles that are all zeros being none. pooler_output: [tiles,
    tokens, size]. known: the positions of patches, by the shape of a tile, as the model itself reckons them."""
    if pixel_attention_mask is not None:
        return original(pixel_values, pixel_attention_mask, **kwargs)
    tiles = pixel_values.to(model.dtype).flatten(0, 1)
    real = tiles.flatten(1).any(1)
    places = real.tolist()
    if not all(places):
        if not any(places):
            return original(pixel_values, **kwargs)
        tiles = tiles[real]
    vision, shape = model.vision_model, tiles.shape[1:]
    if shape not in known:
        known[shape] = _positions(vision, tiles)
    patches = vision.embeddings.patch_embedding(tiles).flatten(2).transpose(1, 2)
    # Of each tile its own: a sum with one for all is twice as slow as this.
    positions = vision.embeddings.position_embedding(known[shape].expand(len(tiles), -1))
    with owning():
        states = vision.encoder(patches + positions).last_hidden_state
    states = vision.post_layernorm(states)
    return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=model.connector(states))


def _shuffled(original, states, *args, **kwargs):
    """Patches side by side as one: copies, of which the model makes two."""
    return original(in_eights(states), *args, **kwargs).view(states.dtype)


def _positions(vision, tiles: torch.Tensor) -> torch.Tensor:
    """int64[1, patches] of a whole tile like these."""
    side, found = vision.embeddings.patch_size, []
    keep = vision.embeddings.position_embedding.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        whole = torch.ones(1, tiles.shape[2] // side, tiles.shape[3] // side, dtype=torch.bool, device=tiles.device)
        vision.embeddings(pixel_values=tiles[:1], patch_attention_mask=whole)
    finally:
        keep.remove()
    return found[0]


def _merged(model, original, input_ids, inputs_embeds, image_hidden_states):
    """The embeddings of a prompt's tokens, with features in the places of a picture's, in order."""
    if input_ids is None:
        return original(input_ids, inputs_embeds, image_hidden_states)
    here = input_ids == model.config.image_token_id
    features = image_hidden_states.to(inputs_embeds.device, inputs_embeds.dtype).flatten(0, -2)
    return torch.where(here[..., None], spread(features, here), inputs_embeds)


def spread(features: torch.Tensor, here: torch.Tensor) -> torch.Tensor:
    """[rows, tokens, size]: the features, [true ones, size], in the true places of `here`, in order; in the others
    anything."""
    return features[(here.flatten().cumsum(0) - 1).clamp(min=0).view(here.shape)]


def _placeholders(model, original, input_ids, inputs_embeds, image_features):
    if input_ids is None:
        return original(input_ids, inputs_embeds, image_features)
    return (input_ids == model.config.image_token_id)[..., None]
