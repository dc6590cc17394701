"""Further families, as models without their processors: slots and packed prompts write what each writes alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from caption.engine import Request, attention, packing
from caption.engine.base import Loaded, settle
from caption.engine.generate import GenerateEngine
from caption.engine.slots import SlotEngine

from .helpers import caption_all, options, spell_ids

IMAGE = 150  # the id of the picture's token
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 200, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56,
    "patch_size": 14,
}  # fmt: skip
SIGLIP = {"model_type": "siglip_vision_model", **TOWER}
COHERE = {
    "model_type": "cohere2", "head_dim": 8, "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"], **TEXT,
}  # fmt: skip
SQUEEZED = {"downsample_factor": 2, "alignment_intermediate_size": 32}
GLM = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}
INDICATORS = {"visual_indicator_token_ids": [160, 161, 162, 163], "vocab_size": 200, "hidden_size": 32}
TOKENS = ("video_token_id", "image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id")

# By class: the config, and how many picture tokens a picture of 56x56 has.
FAMILIES = {
    "Mistral3": ({
        "text_config": {"model_type": "mistral", "head_dim": 8, **TEXT},
        "vision_config": {"model_type": "pixtral", "head_dim": 8, **TOWER},
        "image_token_index": IMAGE, "spatial_merge_size": 1, "multimodal_projector_bias": False,
    }, 16),
    "AyaVision": ({"text_config": COHERE, "vision_config": SIGLIP, "image_token_index": IMAGE, **SQUEEZED}, 4),
    "Cohere2Vision": ({"text_config": COHERE, "vision_config": SIGLIP, "image_token_id": IMAGE, **SQUEEZED}, 4),
    "DeepseekVL": ({
        "text_config": {"model_type": "llama", **TEXT}, "vision_config": SIGLIP, "image_token_id": IMAGE,
    }, 16),
    "VipLlava": ({
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", **TOWER, "num_hidden_layers": 5},
        "image_token_index": IMAGE, "vision_feature_layers": [-2, -3, -4],
    }, 16),
    "Ovis2": ({
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {**TOWER, "vocab_size": 64, "num_visual_indicator_tokens": 4, "hidden_stride": 1},
        "image_token_id": IMAGE, **INDICATORS,
    }, 16),
    "Glm4v": ({
        "text_config": {"rope_parameters": GLM, "head_dim": 8, **TEXT},
        "vision_config": {
            "hidden_size": 32, "depth": 2, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 32,
            "patch_size": 14, "image_size": 56, "spatial_merge_size": 2,
        },
        "image_token_id": IMAGE, **{name: 151 + place for place, name in enumerate(TOKENS)},
    }, 4),
    "Lfm2Vl": ({
        "text_config": {
            "model_type": "lfm2", "layer_types": ["conv", "full_attention"], "conv_L_cache": 3, "block_ff_dim": 48,
            **TEXT,
        },
        "vision_config": {**SIGLIP, "model_type": "siglip2_vision_model", "num_patches": 16, "vision_use_head": False},
        "image_token_id": IMAGE, "downsample_factor": 2, "projector_hidden_size": 32,
    }, 4),
    "GotOcr2": ({
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {
            "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 256, "patch_size": 16, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 48,
        },
        "image_token_index": IMAGE,
    }, 16),
}  # fmt: skip
MIXED = {"AyaVision", "Cohere2Vision", "Lfm2Vl"}  # layers that are not all of one kind


def inputs_for(name: str, count: int, seed: int) -> dict[str, np.ndarray]:
    """A picture of noise and a prompt, the longer the higher the seed."""
    random = np.random.default_rng(seed)
    side = 256 if name == "GotOcr2" else 56
    pixels = random.normal(size=(1, 3, side, side)).astype(np.float32)
    ids = [*random.integers(10, 100, 3), *[IMAGE] * count, *random.integers(10, 100, 3 + 2 * seed)]
    inputs = {"pixel_values": pixels}
    if name == "Mistral3":
        inputs["image_sizes"] = np.array([[56, 56]])
    if name == "Lfm2Vl":
        inputs = {
            "pixel_values": random.normal(size=(1, 16, 3 * 14 * 14)).astype(np.float32),
            "pixel_attention_mask": np.ones((1, 16), np.int64), "spatial_shapes": np.array([[4, 4]]),
        }  # fmt: skip
    if name == "Glm4v":
        ids = [*ids[:3], 152, *ids[3 : 3 + count], 153, *ids[3 + count :]]
        inputs = {
            "pixel_values": random.normal(size=(16, 3 * 2 * 14 * 14)).astype(np.float32),
            "image_grid_thw": np.array([[1, 4, 4]]),
            "mm_token_type_ids": (np.array([ids]) == IMAGE).astype(np.int64),
        }
    return {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64), **inputs}


@pytest.mark.parametrize("name", FAMILIES)
def test_slots_and_packed_prompts_write_what_each_writes_alone(name):
    settings, count = FAMILIES[name]
    if not hasattr(transformers, f"{name}ForConditionalGeneration"):
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    settle(model, 0)
    processor = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0), image_processor=None)
    loaded = Loaded(model, processor, torch.float32, 0)
    requests = [Request(key, inputs_for(name, count, key), key, 4 + key) for key in range(7)]

    def texts(engine) -> dict:
        spell_ids(engine)
        return {key: answer.text for key, answer in caption_all(engine, requests).items()}

    alone = texts(GenerateEngine(options("", batch_size=1), loaded))
    assert len(set(alone.values())) == 7
    assert texts(SlotEngine(options("", batch_size=3), loaded)) == alone
    attention.install(model)
    packed = packing.install(model)
    assert (packed is None) == (name in MIXED)
    assert texts(SlotEngine(options("", batch_size=3), loaded)) == alone
