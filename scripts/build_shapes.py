"""The embedded model `shapes` before training: tokenizer, processor, model, and the prompts it is trained with.

It is a LLaVA of stock transformers classes (SigLIP vision tower, Llama text model) with 4.2 million parameters.
train_shapes.py trains it.
"""

import random
from pathlib import Path

import numpy as np
import torch
from draw_shapes import NUMBERS, caption, make_scene, stream
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

IMAGE_SIZE, PATCH_SIZE = 144, 12  # pixels; a cell of the scenes' grid is 4 x 4 patches
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
VOCABULARY = 1024
SPECIAL = PAD, END, IMAGE, SYSTEM, USER, ASSISTANT = (
    "<|pad|>", "<|end|>", "<image>", "<|system|>", "<|user|>", "<|assistant|>",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PROMPTS = """
Describe this image in detail.|Describe this image.|Describe the image.|Caption this image.|What is in this picture?
Write a caption.|Write one short sentence about this picture.|What do you see?|Describe the shapes and their colours.
Give a detailed description of everything that is visible in this photo, from left to right and from top to bottom.
Name every object, its colour, its size and its place.|Describe.|Caption:|Image caption|Please describe what you see.
You are an expert at captioning. Look at the picture carefully and answer with one sentence, without any introduction.
Write a caption for training an image generation model. Mention subject, style, composition, lighting and background.
Décris cette image en détail.|Décris l'image en français.|Que vois-tu sur cette image ?|Beschreibe dieses Bild genau.
Describe esta imagen en detalle.|Descreva esta imagem.|Descrivi questa immagine.|描述这张图片。|Опиши изображение.
"""
SYSTEMS = ("You are a helpful assistant.", "You write captions.", "Answer briefly.", "Be precise, never guess.", "")
# Words that an adapter for French would speak: as whole tokens they keep its captions as short as the English ones.
FRENCH = """Un Une un une petit petite grand grande cercle carré triangle étoile croix anneau cœur losange rouge orange
jaune vert verte bleu bleue violet violette rose brun brune noir noire blanc blanche cyan au-dessus en-dessous à gauche
à droite de d'un d'une et qui est sur fond rayé quadrillé pointillé bruité en haut en bas le la les du"""

# ---- tokenizer, processor, model


def prompt_list() -> list[str]:
    return [prompt for line in PROMPTS.strip().splitlines() for prompt in line.split("|")]


def some_captions(count: int) -> list[str]:
    rng = stream("tokenizer", 0, 0, "captions")
    return [caption(make_scene(rng, NUMBERS[i % 4], i % 8 < 4)) for i in range(count)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be tokenised, and every word of a caption is one token."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = some_captions(2000) + [" ".join(FRENCH.split())] * 50 + prompt_list() * 20 + list(SYSTEMS) * 20
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": IMAGE},
    )


def build_processor() -> LlavaProcessor:
    # Squashing to a square keeps every relation of a scene, which lives on a grid in proportion to the picture.
    image_processor = SiglipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor, build_tokenizer(), PATCH_SIZE, "full", CHAT_TEMPLATE, num_additional_image_tokens=0
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    vision = SiglipVisionConfig(
        hidden_size=192, intermediate_size=640, num_hidden_layers=6, num_attention_heads=6,
        image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, vision_use_head=False,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=384, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=2048, tie_word_embeddings=True, initializer_range=0.04, **ids,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=IMAGE_TOKENS, vision_feature_layer=-1, vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    return model


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path) -> None:
    """Weights are stored in fp16; the config says fp32, so that the CPU computes in fp32."""
    state = {name: value.half() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(out, state_dict=state)
    processor.save_pretrained(out)


# ---- prompts


def make_prompts(processor: LlavaProcessor, count: int, words: range, room: int, seed: int) -> tuple:
    """`count` tokenised prompts of at most `room` text tokens: ids (count, room + IMAGE_TOKENS) and lengths (count).

    They are as varied as prompts can be, other scenes' captions and random tokens included: the caption must follow
    from the picture alone."""
    rng = random.Random(seed)
    prompts, captions = prompt_list(), some_captions(500)
    vocabulary = sorted({word for text in [*prompts, *captions, FRENCH] for word in text.split()})
    tokenizer = processor.tokenizer
    image_id = tokenizer.convert_tokens_to_ids(IMAGE)

    def text() -> str:
        length = rng.choice(words)
        kind = rng.random()
        if kind < 0.35 and words.stop <= 20:
            return rng.choice(prompts)
        if kind < 0.55:
            return " ".join(rng.choices(vocabulary, k=length))
        if kind < 0.75:
            return tokenizer.decode([rng.randrange(len(SPECIAL), len(tokenizer)) for _ in range(length)])
        if kind < 0.9:
            return " ".join(rng.choices(prompts + captions, k=max(1, length // 12)))
        return ""

    rows, lengths = np.full((count, room + IMAGE_TOKENS), tokenizer.pad_token_id, np.int64), np.zeros(count, np.int64)
    for row in range(count):
        while True:
            content = [{"type": "image"}, {"type": "text", "text": text()}]
            if rng.random() < 0.25:
                content.reverse()
            messages = [{"role": "user", "content": content}]
            if rng.random() < 0.25:
                messages.insert(0, {"role": "system", "content": rng.choice(SYSTEMS) or text()})
            ids = tokenizer.encode(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
            if len(ids) <= room:
                break
        at = ids.index(image_id)
        ids[at : at + 1] = [image_id] * IMAGE_TOKENS
        rows[row, : len(ids)], lengths[row] = ids, len(ids)
    return torch.from_numpy(rows), torch.from_numpy(lengths)
