"""Write a checkpoint of random weights at a real model's shape: it costs what the real one costs, and writes nonsense.

    python scripts/random_model.py qwen2.5-vl-7b FOLDER [--no-weights] [--dtype fp16] [--device cuda]

Shapes and special tokens are those published in the models' configs. Other tokens stand for made-up words.
"""

import argparse
import itertools
import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TEMPLATES = {
    "qwen": (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "smolvlm": (
        "<|im_start|>{% for message in messages %}{{ message['role'] }}:{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    ),
}
QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
QWEN_FIRST = 151643
QWEN_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "spatial_patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
    "hidden_act": "silu", "in_channels": 3, "in_chans": 3,
}  # fmt: skip
QWEN_TEXT = {
    "qwen2.5-vl-7b": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "qwen2.5-vl-3b": {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
}  # fmt: skip
SMOLVLM_FIRST, SMOLVLM_VOCABULARY = 49152, 49280
NAMES = (*QWEN_TEXT, "smolvlm-500m")


def write(name: str, folder: Path) -> None:
    """Write config, processor and tokenizer; no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (_smolvlm if name == "smolvlm-500m" else _qwen)(name, folder)


def build(folder: Path, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """Make the folder's model with random weights, on the device."""
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


def _vocabulary(size: int, special: dict[int, str]) -> Tokenizer:
    alphabet = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    words = {special.get(index) or next(alphabet, f"\u0120word{index}"): index for index in range(size)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special.values()])
    return tokenizer


def _qwen(name: str, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig

    special = dict(enumerate(QWEN_TOKENS, QWEN_FIRST))
    PreTrainedTokenizerFast(
        tokenizer_object=_vocabulary(max(special) + 1, special),
        eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATES["qwen"],
    ).save_pretrained(folder)  # fmt: skip
    text = QWEN_TEXT[name]
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    ids = {token: index for index, token in special.items()}
    config = Qwen2_5_VLConfig(
        text_config={**text, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_parameters": rope},
        vision_config={**QWEN_VISION, "out_hidden_size": text["hidden_size"]},
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=text["tie_word_embeddings"],
    )  # fmt: skip
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    config.save_pretrained(folder)
    _dump(folder / "preprocessor_config.json", {
        "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
    })  # fmt: skip
    ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    _dump(folder / "generation_config.json", {"eos_token_id": ends, "pad_token_id": ends[1], "do_sample": False})


def _smolvlm(name: str, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast, SmolVLMConfig

    special = {1: "<|im_start|>", 2: "<|endoftext|>", 49152: "<global-img>", 49189: "<fake_token_around_image>"}
    special |= {49190: "<image>", 49279: "<end_of_utterance>"}
    places = itertools.product(range(1, 7), repeat=2)
    special |= {index: f"<row_{row}_col_{column}>" for index, (row, column) in enumerate(places, 49153)}
    named = {
        "image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
        "end_of_utterance_token": "<end_of_utterance>", "global_image_token": "<global-img>",
    }  # fmt: skip
    PreTrainedTokenizerFast(
        tokenizer_object=_vocabulary(SMOLVLM_VOCABULARY, special), bos_token="<|im_start|>",
        eos_token="<end_of_utterance>", pad_token="<|endoftext|>", chat_template=TEMPLATES["smolvlm"],
        extra_special_tokens=named,
    ).save_pretrained(folder)  # fmt: skip
    config = SmolVLMConfig(
        text_config={
            "model_type": "llama", "vocab_size": SMOLVLM_VOCABULARY, "hidden_size": 960, "intermediate_size": 2560,
            "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 49279,
        },
        vision_config={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 512, "patch_size": 16,
        },
        image_token_id=49190, scale_factor=4, pad_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    config.architectures = ["SmolVLMForConditionalGeneration"]
    config.save_pretrained(folder)
    _dump(folder / "preprocessor_config.json", {
        "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
        "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "SmolVLMImageProcessor", "max_image_size": {"longest_edge": 512},
        "processor_class": "SmolVLMProcessor", "resample": 1, "rescale_factor": 1 / 255,
        "size": {"longest_edge": 2048},
    })  # fmt: skip
    _dump(folder / "processor_config.json", {"image_seq_len": 64, "processor_class": "SmolVLMProcessor"})
    _dump(folder / "generation_config.json", {"eos_token_id": 49279, "pad_token_id": 2, "do_sample": False})


def _dump(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-weights", action="store_true")
    parser.add_argument("--dtype", default="fp16", choices=["fp16", "bf16", "fp32"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    write(given.name, given.folder)
    if not given.no_weights:
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[given.dtype]
        build(given.folder, dtype, given.device).save_pretrained(given.folder)


if __name__ == "__main__":
    main()
