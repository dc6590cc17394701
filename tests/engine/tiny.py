"""Tiny random checkpoints of many families, written as they lie on the hub: config, weights, tokenizer, processor.

Each builder returns (config class, config, processor class, processor settings, image processor, tokenizer, chat
template or None). Sizes are the least that keep every mechanism of the family: tiles, windows, cross attention.
"""

import json
from pathlib import Path

import torch
import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 2048}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP = {**VISION, "model_type": "clip_vision_model", "num_hidden_layers": 3, "image_size": 56, "patch_size": 14}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
PINPOINTS = [[56, 112], [112, 56], [112, 112]]
TILE = {"height": 56, "width": 56}

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(*special, named=None, eos="<|im_end|>", pad="<|pad|>", **others):
    """A byte-level tokenizer without merges; `others`: bos_token, unk_token."""
    core = Tokenizer(models.BPE({char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([pad, eos, *others.values(), "<|im_start|>", *special, *(named or {}).values()])
    if named:
        others["extra_special_tokens"] = named
    return T.PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, pad_token=pad, **others)


def text(tok, model_type="llama", **others):
    ids = {"bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}
    return {**TEXT, "model_type": model_type, "vocab_size": len(tok), **ids, **others}


def qwen(family, vision, patch=14, **text_settings):
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    tok = tokenizer("<|vision_start|>", "<|vision_end|>", named=named)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3], **text_settings.pop("rope", {})}
    settings = text(tok, rope_parameters=rope, **text_settings)
    del settings["model_type"]
    ids = {f"{key}_id": tok.convert_tokens_to_ids(token) for key, token in {
        **named, "vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}.items()}  # fmt: skip
    vision = {"depth": 2, "num_heads": 2, "patch_size": patch, **vision}
    config = getattr(T, family + "Config")(text_config=settings, vision_config=vision, **ids)
    pictures = T.Qwen2VLImageProcessorPil(patch_size=patch, size={"shortest_edge": 28**2, "longest_edge": 16 * 28**2})
    template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return family, config, family + "Processor", {}, pictures, tok, template


def qwen2_vl():
    return qwen("Qwen2VL", {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2})


def qwen2_5_vl():
    window = {"fullatt_block_indexes": [1], "window_size": 56}
    return qwen("Qwen2_5_VL", {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, **window})


def qwen3_vl():
    deep = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    vision = {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, **deep}
    return qwen("Qwen3VL", vision, patch=16, head_dim=16)


def qwen3_5():
    """Layers of linear attention, which keep a state and no tokens, between those of full attention."""
    layers = {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
    linear = {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
              "linear_num_value_heads": 4}  # fmt: skip
    vision = {"num_position_embeddings": 64, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64}
    rope = {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
    made = qwen("Qwen3_5", vision, patch=16, head_dim=16, rope=rope, **layers, **linear)
    return *made[:2], "Qwen3VLProcessor", *made[3:]


def tiled(family, named=None):
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tok = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows, named=named)
    config = getattr(T, family + "Config")(
        text_config=text(tok), vision_config={**VISION, "image_size": 32, "patch_size": 8}, scale_factor=2,
        image_token_id=tok.convert_tokens_to_ids("<image>"), pad_token_id=tok.pad_token_id)  # fmt: skip
    pictures = getattr(T, family + "ImageProcessorPil")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32})  # fmt: skip
    return family, config, family + "Processor", {"image_seq_len": 4}, pictures, tok, CHAT.replace("IMAGE", "<image>")


def idefics3():
    return tiled("Idefics3")


def smolvlm():
    return tiled("SmolVLM", {
        "image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "video_token": "<video>",
        "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"})  # fmt: skip


def idefics2():
    tok = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>")
    perceiver = {"hidden_size": 64, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2,
                 "resampler_head_dim": 16, "num_key_value_heads": 1}  # fmt: skip
    config = T.Idefics2Config(
        text_config=text(tok, "mistral", sliding_window=None), perceiver_config=perceiver,
        vision_config={**VISION, "image_size": 56, "patch_size": 14},
        image_token_id=tok.convert_tokens_to_ids("<image>"))  # fmt: skip
    pictures = T.Idefics2ImageProcessorPil(size={"longest_edge": 56, "shortest_edge": 28}, do_image_splitting=False)
    template = CHAT.replace("IMAGE", "<image>")
    return "Idefics2", config, "Idefics2Processor", {"image_seq_len": 4}, pictures, tok, template


def llava_like(family, pictures, vision, settings, named=None, text_type="llama", **others):
    tok = tokenizer(named={"image_token": "<image>", **(named or {})})
    config = getattr(T, family + "Config")(
        text_config=text(tok, text_type), vision_config=vision,
        image_token_id=tok.convert_tokens_to_ids("<image>"), **others)  # fmt: skip
    return family, config, family + "Processor", settings, pictures, tok, CHAT.replace("IMAGE", "<image>")


REACH = 64  # tokens of a text, beyond which frequencies change with the longest of a batch
CROPPED = {"size": {"shortest_edge": 56}, "crop_size": TILE}
CLASS_TOKEN = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


def llava():
    return llava_like("Llava", T.CLIPImageProcessorPil(**CROPPED), CLIP, CLASS_TOKEN, vision_feature_layer=-2)


def llava_dynamic():
    made = llava_like("Llava", T.CLIPImageProcessorPil(**CROPPED), CLIP, CLASS_TOKEN, vision_feature_layer=-2)
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    made[1].text_config.update({"max_position_embeddings": REACH, "rope_parameters": rope})
    return made


def llava_longrope():
    made = llava_like(
        "Llava", T.CLIPImageProcessorPil(**CROPPED), CLIP, CLASS_TOKEN, text_type="phi3",
        vision_feature_layer=-2)  # fmt: skip
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    rope["original_max_position_embeddings"] = REACH
    made[1].text_config.update({"original_max_position_embeddings": REACH, "rope_parameters": rope})
    return made


def llava_next():
    pictures = T.LlavaNextImageProcessorPil(**CROPPED, image_grid_pinpoints=PINPOINTS)
    grid = {"image_grid_pinpoints": PINPOINTS, "vision_feature_layer": -2}
    return llava_like("LlavaNext", pictures, CLIP, CLASS_TOKEN, **grid)


def llava_onevision():
    pictures = T.LlavaOnevisionImageProcessorPil(size=TILE, image_grid_pinpoints=PINPOINTS)
    settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"}
    return llava_like(
        "LlavaOnevision", pictures, SIGLIP, settings, {"video_token": "<video>"}, "qwen2", video_token_id=1,
        image_grid_pinpoints=PINPOINTS, vision_feature_layer=-1, vision_aspect_ratio="anyres_max_9")  # fmt: skip


def internvl():
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tok = tokenizer(named={**named, "video_token": "<video>"})
    vision = {**VISION, "image_size": [56, 56], "patch_size": [14, 14]}
    config = T.InternVLConfig(
        text_config=text(tok, "qwen2"), vision_config=vision, image_seq_length=4, downsample_ratio=0.5,
        image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"))  # fmt: skip
    pictures = T.GotOcr2ImageProcessorPil(size=TILE, max_patches=4)
    template = CHAT.replace("IMAGE", "<IMG_CONTEXT>")
    return "InternVL", config, "InternVLProcessor", {"image_seq_length": 4}, pictures, tok, template


def mistral3():
    tok = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]", bos_token="<s>", eos="</s>")
    vision = {**VISION, "model_type": "pixtral", "image_size": 112, "patch_size": 14, "head_dim": 16}
    config = T.Mistral3Config(
        text_config=text(tok, "mistral", head_dim=16, sliding_window=None), vision_config=vision,
        image_token_index=tok.convert_tokens_to_ids("[IMG]"), spatial_merge_size=2)  # fmt: skip
    pictures = T.PixtralImageProcessorPil(size={"longest_edge": 112}, patch_size={"height": 14, "width": 14})
    settings, template = {"patch_size": 14, "spatial_merge_size": 2}, "<s>" + CHAT.replace("IMAGE", "[IMG]")
    return "Mistral3", config, "PixtralProcessor", settings, pictures, tok, template


def paligemma():
    tok = tokenizer(named={"image_token": "<image>"}, bos_token="<bos>")
    words = {**text(tok, "gemma", head_dim=16), "vocab_size": len(tok) + 1152 + 64}  # the processor adds 1152 places
    config = T.PaliGemmaConfig(text_config=words, vision_config={**SIGLIP, "projection_dim": 64}, projection_dim=64,
                               image_token_id=tok.convert_tokens_to_ids("<image>"))  # fmt: skip
    pictures = T.SiglipImageProcessorPil(size=TILE)
    pictures.image_seq_length = 16
    return "PaliGemma", config, "PaliGemmaProcessor", {}, pictures, tok, None


def gemma3():
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tok = tokenizer(named=named, bos_token="<bos>")
    layers = {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    image, start, end = (tok.convert_tokens_to_ids(token) for token in named.values())
    config = T.Gemma3Config(
        text_config=text(tok, "gemma3_text", head_dim=16, sliding_window=16, **layers), vision_config=SIGLIP,
        image_token_id=image, boi_token_index=start, eoi_token_index=end, mm_tokens_per_image=4)  # fmt: skip
    template = "<bos>" + CHAT.replace("IMAGE", "<start_of_image>")
    pictures = T.Gemma3ImageProcessorPil(size=TILE)
    return "Gemma3", config, "Gemma3Processor", {"image_seq_length": 4}, pictures, tok, template


def gemma4():
    """Heads of two sizes, and layers that read the keys and values of others."""
    named = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    audio = {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    tok = tokenizer("<|video|>", named=named | audio, bos_token="<bos>")
    words = text(tok, num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=16)
    del words["model_type"]
    heads = {"head_dim": 16, "global_head_dim": 32, "num_kv_shared_layers": 2}
    inputs = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(tok)}
    vision = {**VISION, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 16, "position_embedding_size": 256}
    image, start, end = (tok.convert_tokens_to_ids(token) for token in named.values())
    config = T.Gemma4Config(
        text_config={**words, **heads, **inputs}, vision_config=vision, audio_config=None, image_token_id=image,
        boi_token_id=start, eoi_token_id=end)  # fmt: skip
    template = "<bos>" + CHAT.replace("IMAGE", "<|image|>")
    pictures = T.Gemma4ImageProcessorPil(max_soft_tokens=70)
    return "Gemma4", config, "Gemma4Processor", {"image_seq_length": 70}, pictures, tok, template


def blip_2():
    tok = tokenizer("<image>", bos_token="<bos>")
    words = {"hidden_size": 64, "ffn_dim": 96, "word_embed_proj_dim": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "max_position_embeddings": 256}  # fmt: skip
    ids = {key: value for key, value in text(tok, "opt").items() if key not in TEXT}
    vision = {**VISION, "image_size": 56, "patch_size": 14}
    config = T.Blip2Config(
        text_config={**words, **ids}, vision_config=vision, num_query_tokens=8,
        qformer_config={**VISION, "encoder_hidden_size": 32, "vocab_size": 300},
        image_token_index=tok.convert_tokens_to_ids("<image>"))  # fmt: skip
    return "Blip2", config, "Blip2Processor", {"num_query_tokens": 8}, T.BlipImageProcessorPil(size=TILE), tok, None


def blip():
    tok = tokenizer("[CLS]", bos_token="[DEC]", eos="[SEP]", pad="[PAD]")
    marks = [(token, tok.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=marks)
    words = {**text(tok), "encoder_hidden_size": 32, "projection_dim": 32, "sep_token_id": tok.eos_token_id,
             "max_position_embeddings": 256}  # fmt: skip
    for name in ("model_type", "num_key_value_heads"):
        del words[name]
    config = T.BlipConfig(text_config=words, vision_config={**VISION, "image_size": 56, "patch_size": 14})
    return "Blip", config, "BlipProcessor", {}, T.BlipImageProcessorPil(size=TILE), tok, None


def kosmos2():
    tok = tokenizer("<image>", "</image>", *(f"<extra_{i}>" for i in range(70)),
                    bos_token="<s>", eos="</s>", pad="<pad>", unk_token="<unk>")  # fmt: skip
    ids = {key: value for key, value in text(tok).items() if key.endswith("token_id")}
    words = {"vocab_size": 1600, "embed_dim": 64, "layers": 2, "ffn_dim": 96, "attention_heads": 4, **ids}
    config = T.Kosmos2Config(text_config={**words, "max_position_embeddings": 512}, latent_query_num=64,
                             vision_config={**VISION, "image_size": 56, "patch_size": 14})  # fmt: skip
    return "Kosmos2", config, "Kosmos2Processor", {}, T.CLIPImageProcessorPil(**CROPPED), tok, None


def florence2():
    tok = tokenizer(*(f"<loc_{i}>" for i in range(1000)), named={"image_token": "<image>"},
                    bos_token="<s>", eos="</s>", pad="<pad>")  # fmt: skip
    ids = {key: value for key, value in text(tok, "bart").items() if key not in TEXT}
    sides = {f"{side}_{key}": value for side in ("encoder", "decoder")
             for key, value in {"layers": 2, "ffn_dim": 96, "attention_heads": 4}.items()}  # fmt: skip
    words = {**ids, **sides, "d_model": 64, "max_position_embeddings": 256, "forced_eos_token_id": tok.eos_token_id}
    vision = {"embed_dim": [8, 16, 16, 32], "num_heads": [1, 1, 1, 2], "num_groups": [1, 1, 1, 2],
              "depths": [1, 1, 1, 1], "window_size": 4, "projection_dim": 64}  # fmt: skip
    config = T.Florence2Config(
        text_config={**words, "decoder_start_token_id": tok.eos_token_id}, vision_config=vision,
        image_token_id=tok.convert_tokens_to_ids("<image>"), is_encoder_decoder=True)  # fmt: skip
    size = {"height": 64, "width": 64}
    pictures = T.CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    pictures.image_seq_length = 5
    return "Florence2", config, "Florence2Processor", {}, pictures, tok, None


def instructblip():
    """BLIP-2 whose Q-Former reads the prompt too, by a tokenizer of its own."""
    _, base, _, settings, pictures, tok, _ = blip_2()
    qformer = {**VISION, "encoder_hidden_size": 32, "vocab_size": 400}
    config = T.InstructBlipConfig(
        text_config=base.text_config.to_dict(), vision_config=base.vision_config.to_dict(), qformer_config=qformer,
        num_query_tokens=8, image_token_index=base.image_token_id)  # fmt: skip
    return "InstructBlip", config, "InstructBlipProcessor", settings, pictures, tok, None


def mllama():
    """Cross attention to tiles, with a mask along the tokens."""
    tok = tokenizer("<|image|>", bos_token="<bos>")
    rope = {"rope_type": "default", "rope_theta": 1e4}
    words = text(tok, "mllama_text_model", num_hidden_layers=3, cross_attention_layers=[1], rope_parameters=rope)
    ratios = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "attention_heads": 2,
              "num_global_layers": 1, "vision_output_dim": 64, "intermediate_layers_indices": [0], "image_size": 56,
              "patch_size": 14, "max_num_tiles": 4, "supported_aspect_ratios": ratios}  # fmt: skip
    image = tok.convert_tokens_to_ids("<|image|>")
    config = T.MllamaConfig(text_config=words, vision_config=vision, image_token_index=image)
    pictures = T.MllamaImageProcessorPil(size=TILE, max_image_tiles=4)
    return "Mllama", config, "MllamaProcessor", {}, pictures, tok, CHAT.replace("IMAGE", "<|image|>")


def git():
    """A decoder that is asked in the first words of its text, by a tokenizer that ends them."""
    tok = tokenizer("[CLS]", eos="[SEP]", pad="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    marks = [(token, tok.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=marks)
    words = text(tok, max_position_embeddings=128, bos_token_id=tok.cls_token_id)
    for name in ("model_type", "num_key_value_heads"):
        del words[name]
    config = T.GitConfig(vision_config={**VISION, "image_size": 56, "patch_size": 14}, **words)
    return "Git", config, "GitProcessor", {}, T.CLIPImageProcessorPil(**CROPPED), tok, None


def vision_encoder_decoder():
    """ViT and GPT-2: no prompt, and no processor named."""
    tok = tokenizer(bos_token="<bos>")
    ids = {key: value for key, value in text(tok).items() if key.endswith("token_id")}
    decoder = T.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=len(tok), n_positions=128, **ids)
    encoder = T.ViTConfig(**VISION, image_size=56, patch_size=14)
    config = T.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = tok.bos_token_id, tok.pad_token_id
    return "VisionEncoderDecoder", config, None, {}, T.ViTImageProcessorPil(size=TILE), tok, None


def pix2struct():
    """The prompt is the beginning of what the decoder writes."""
    tok = tokenizer(bos_token="<bos>")
    sides = {"hidden_size": 32, "d_kv": 16, "d_ff": 64}
    words = {"vocab_size": len(tok), "num_layers": 2, "num_heads": 2, "decoder_start_token_id": tok.pad_token_id}
    words |= {"pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id}
    vision = {**sides, "patch_embed_hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = T.Pix2StructConfig(text_config={**sides, **words}, vision_config=vision, is_vqa=False)
    return "Pix2Struct", config, "Pix2StructProcessor", {}, T.Pix2StructImageProcessorPil(max_patches=32), tok, None


FAMILIES = {build.__name__: build for build in (
    qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, idefics2, idefics3, smolvlm, llava, llava_next, llava_onevision, internvl,
    llava_dynamic, llava_longrope, mistral3, paligemma, gemma3, gemma4, blip, blip_2, instructblip, kosmos2, florence2,
    mllama, git, vision_encoder_decoder, pix2struct)}  # fmt: skip
PROMPTS = ["Describe it.", "What is there to see, and where does it stand?", "Say."]
# Families without a chat template: prompts as their cards write them.
PLAIN = {
    "paligemma": ["caption en", "describe en", "<image>caption fr"],
    "blip": ["a picture of", "this is a large photograph of", "a"],
    "blip_2": ["a photo of", "Question: what is there to see? Answer:", "this is"],
    "instructblip": ["Write a short description.", "What is there to see?", "Say."],
    "kosmos2": ["<grounding>An image of", "Describe this image in detail:", "<grounding>A"],
    "florence2": ["<CAPTION>", "<MORE_DETAILED_CAPTION>", "<DETAILED_CAPTION>"],
    "git": ["a picture of", "this is a large photograph of", "a"],
    "vision_encoder_decoder": PROMPTS,
    "pix2struct": ["A picture of", "This is a large photograph of", "A"],
}
PICTURES = {"pix2struct": "flattened_patches"}  # the name of the array, if not pixel_values
MODELS = {"Git": "GitForCausalLM", "VisionEncoderDecoder": "VisionEncoderDecoderModel"}


def prompts_for(name: str) -> list[str]:
    """Three prompts of unlike lengths, as that family takes them."""
    return PLAIN.get(name, PROMPTS)


# How much the random weights are spread, so that the likeliest tokens differ from step to step.
SPREAD = {"paligemma": 12.0, "gemma3": 12.0}


def write(name: str, folder: Path) -> Path:
    """Write the family's checkpoint into `folder`, and return that."""
    family, config, processor_class, settings, pictures, tok, template = FAMILIES[name]()
    torch.manual_seed(0)
    model = getattr(T, MODELS.get(family, family + "ForConditionalGeneration"))(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                scaled = name in SPREAD and "embed_tokens" in parameter_name  # Gemma scales its embeddings itself
                parameter.mul_(0.7 if scaled else SPREAD.get(name, 6.0))
    model.save_pretrained(folder)
    tok.chat_template = template
    tok.save_pretrained(folder)
    if name == "instructblip":
        tok.save_pretrained(folder / "qformer_tokenizer")
    pictures.save_pretrained(folder)
    if processor_class:
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": processor_class, **settings}))
    return folder
