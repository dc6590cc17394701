"""Train the embedded scorer `shapes-scorer`, a small SigLIP, on scenes from draw_shapes.py.

    python scripts/train_scorer.py OUT --minutes 10

Its vision tower is the first layers of the embedded captioner's, which stay as they are: each scene goes through them
once, before training, as it is and mirrored. What is trained is the pooling behind them and the text tower. Each step
compares every picture of a batch with every caption of it, and with captions of its own scene in which one thing was
changed. The scenes come from a space of their own: no --seed of draw_shapes.py draws one of them.
OUT receives a folder that AutoProcessor and AutoModel load.
"""

import argparse
import copy
import io
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from build_shapes import IMAGE_SIZE, PATCH_SIZE, VOCABULARY, some_captions
from draw_shapes import COLOURS, KINDS, NUMBERS, SIZES, TEXTURES, Scene, caption, encode, file_form, make_scene, stream
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from train_shapes import normalised
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

CAPTIONER = Path(__file__).resolve().parent.parent / "caption" / "models" / "shapes"
PAD, END = "<|pad|>", "<|end|>"
TEXT_LENGTH = 48  # tokens, END included; a longer text is scored in windows
WIDTH, TEXT_WIDTH = 192, 96
SIDES = (96, 384)  # pixels: the scorer sees IMAGE_SIZE of them at most, and small pictures are drawn faster

# ---- scenes


def mirrored(scene: Scene) -> Scene:
    shapes = [replace(shape, column=2 - shape.column) for shape in scene.shapes]
    return replace(scene, shapes=tuple(sorted(shapes, key=lambda shape: (shape.row, shape.column))))


def other_word(words, word: str | None, rng: np.random.Generator) -> str | None:
    rest = [one for one in words if one != word]
    return rest[rng.integers(len(rest))]


def changed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one thing different: a word of one shape, two shapes that changed places, or the ground."""
    shapes = list(scene.shapes)
    at = int(rng.integers(len(shapes)))
    what = rng.choice(("size", "colour", "kind", "places", "texture"), p=(0.2, 0.25, 0.25, 0.2, 0.1))
    if what == "texture":
        return replace(scene, texture=other_word((*TEXTURES, None), scene.texture, rng))
    if what == "places" and len(shapes) > 1:
        other = (at + 1) % len(shapes)
        one, two = shapes[at], shapes[other]
        shapes[at] = replace(two, row=one.row, column=one.column)
        shapes[other] = replace(one, row=two.row, column=two.column)
    elif what == "places":
        row, column = divmod(int(3 * shapes[0].row + shapes[0].column + rng.integers(1, 9)) % 9, 3)
        shapes[0] = replace(shapes[0], row=row, column=column)
    else:
        words = {"size": tuple(SIZES), "colour": tuple(COLOURS), "kind": KINDS}[what]
        shapes[at] = replace(shapes[at], **{what: other_word(words, getattr(shapes[at], what), rng)})
    return replace(scene, shapes=tuple(shapes))


def example(seed: int, index: int) -> tuple[np.ndarray, Scene]:
    """Pixels (IMAGE_SIZE, IMAGE_SIZE, 3) as the processor resizes them, and the scene."""
    rng = stream("train-scorer", seed, index, "all")
    scene = make_scene(rng, int(rng.choice(NUMBERS, p=(0.22, 0.26, 0.26, 0.26))), rng.random() < 0.5)
    image = Image.open(io.BytesIO(encode(scene, file_form(rng, SIDES), rng))).convert("RGB")
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)), scene


# ---- model


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that ends a text with END: any text can be scored, and every word of a caption is one token."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in (PAD, END)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(some_captions(2000), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=TEXT_LENGTH,
        clean_up_tokenization_spaces=False, model_input_names=["input_ids"],
    )  # fmt: skip


def build_model(tokenizer: PreTrainedTokenizerFast, layers: int) -> SiglipModel:
    config = SiglipConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": TEXT_WIDTH, "intermediate_size": 2 * TEXT_WIDTH,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": TEXT_LENGTH,
            "projection_size": WIDTH, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        },
        vision_config={
            "hidden_size": WIDTH, "intermediate_size": 640, "num_hidden_layers": layers, "num_attention_heads": 6,
            "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE,
        },
    )  # fmt: skip
    model = SiglipModel(config)
    tower = AutoModelForImageTextToText.from_pretrained(CAPTIONER, dtype=torch.float32).model.vision_tower
    model.vision_model.embeddings.load_state_dict(tower.embeddings.state_dict())
    for mine, given in zip(model.vision_model.encoder.layers, tower.encoder.layers, strict=False):
        mine.load_state_dict(given.state_dict())
    with torch.no_grad():
        model.logit_scale.fill_(math.log(15))
        model.logit_bias.zero_()  # of no use: captions are compared, not judged one by one
    return model


def build_processor() -> SiglipProcessor:
    # Squashing to a square keeps every relation of a scene, which lives on a grid in proportion to the picture.
    image_processor = SiglipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, resample=Image.Resampling.BICUBIC,
        image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5],
    )  # fmt: skip
    return SiglipProcessor(image_processor, build_tokenizer())


def save(model: SiglipModel, processor: SiglipProcessor, out: Path) -> None:
    """Weights are stored in fp16; the config says fp32, so that the CPU computes in fp32."""
    model.save_pretrained(out, state_dict={name: value.half() for name, value in model.state_dict().items()})
    processor.save_pretrained(out)


# ---- training


def layers_output(model: SiglipModel, seed: int, count: int) -> Iterator[tuple[torch.Tensor, Scene]]:
    """Each scene as it is and mirrored: what the frozen layers make of it, (patches, WIDTH), and the scene."""
    for start in range(0, count, 32):
        examples = [example(seed, index) for index in range(start, min(start + 32, count))]
        pixels = torch.from_numpy(np.stack([pixels for pixels, _ in examples]))
        scenes = [scene for _, scene in examples]
        for flipped in (False, True):
            with torch.inference_mode():
                hidden = model.vision_model.embeddings(normalised(pixels.flip(2) if flipped else pixels, True))
                for layer in model.vision_model.encoder.layers:
                    hidden = layer(hidden, None)
            yield from zip(hidden.half(), map(mirrored, scenes) if flipped else scenes, strict=True)


def unit_vectors(model: SiglipModel, hidden: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of pictures (B, WIDTH), from what the frozen layers made of them, and of texts (T, WIDTH)."""
    vision = model.vision_model
    image = vision.head(vision.post_layernorm(hidden))
    text = model.text_model(input_ids=ids).pooler_output
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def contrast(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The loss. text: the right captions (B), then changed ones, a multiple of B, in the same order."""
    count = len(image)
    right = torch.arange(count)
    logits = image @ text.T * scale
    others = (torch.arange(len(text)) % count)[None] != right[:, None]
    others[:, :count] = False  # of changed captions a picture meets only its own
    logits = logits.masked_fill(others, -torch.inf)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits[:, :count].T, right)) / 2


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(arguments.seed)
    processor, begin = build_processor(), time.monotonic()
    tokenizer, model = processor.tokenizer, build_model(processor.tokenizer, arguments.layers)
    views = 2 * arguments.scenes
    hidden = torch.empty(views, (IMAGE_SIZE // PATCH_SIZE) ** 2, WIDTH, dtype=torch.float16)
    scenes: list[Scene] = []
    for one, scene in layers_output(model, arguments.seed, arguments.scenes):
        hidden[len(scenes)] = one
        scenes.append(scene)
    print(f"{views} views of {arguments.scenes} scenes after {(time.monotonic() - begin) / 60:.1f} minutes", flush=True)

    for frozen in (model.vision_model.embeddings, model.vision_model.encoder):
        frozen.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=arguments.rate, betas=(0.9, 0.98), weight_decay=0.02)
    average = copy.deepcopy(model).requires_grad_(False)
    kept = [parameter for mine, parameter in zip(model.parameters(), average.parameters()) if mine.requires_grad]
    batch, begin = arguments.batch_size, time.monotonic()
    for step in itertools.count():
        minutes = (time.monotonic() - begin) / 60
        if minutes >= arguments.minutes:
            break
        for group in optimizer.param_groups:
            warm = min(1, (step + 1) / 50)
            group["lr"] = arguments.rate * warm * 0.5 * (1 + math.cos(math.pi * minutes / arguments.minutes))
        rows = rng.integers(views, size=batch).tolist()
        right = [caption(scenes[row]) for row in rows]
        wrong = [caption(changed(scenes[row], rng)) for _ in range(arguments.changed) for row in rows]
        image, text = unit_vectors(model, hidden[rows].float(), encode_texts(tokenizer, right + wrong))
        loss = contrast(image, text, model.logit_scale.clamp(max=math.log(100)).exp())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        decay = min(0.99, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(kept, trained, 1 - decay)
        if step % arguments.report_every == 0:
            print(f"step {step} minute {minutes:.2f} loss {loss.item():.3f}", flush=True)
    save(average, processor, arguments.out)
    print(f"{step} steps of {batch}, {minutes:.1f} minutes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded scorer on drawn scenes.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the model")
    parser.add_argument("--minutes", type=float, default=10, help="training time after the drawing (default: 10)")
    parser.add_argument("--scenes", type=int, default=10_000, help="pictures drawn (default: 10,000)")
    parser.add_argument("--layers", type=int, default=2, help="layers of the captioner's tower (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--changed", type=int, default=2, help="changed captions a picture (default: 2)")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate (default: 2e-3)")
    parser.add_argument("--report-every", type=int, default=50, help="steps between reports (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
