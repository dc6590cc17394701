"""Train the embedded model `shapes`, a small LLaVA, on scenes from draw_shapes.py.

    python scripts/train_shapes.py OUT --minutes 14 --device cuda

Worker processes draw scenes without end; the pictures, already at the model's input size, fill a pool on the device,
from which batches are sampled: a fast device sees each picture several times and never waits for drawing. The scenes
come from a space of their own: no --seed of draw_shapes.py draws one of them.
OUT receives a folder that AutoProcessor and AutoModelForImageTextToText load.
"""

import argparse
import copy
import io
import itertools
import math
import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from build_shapes import IMAGE_SIZE, PATCH_SIZE, build_model, build_processor, make_prompts, save
from draw_shapes import COLOURS, KINDS, NUMBERS, SIZES, TEXTURES, Scene, caption, encode, file_form, make_scene, stream
from PIL import Image
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

CAPTION_LENGTH = 48  # tokens, the end token included

# ---- scenes


def cell_labels(scene: Scene) -> np.ndarray:
    """What each of the nine cells holds, (9, 3): size, colour, kind; 0 where it is empty."""
    labels = np.zeros((9, 3), np.int64)
    for shape in scene.shapes:
        labels[3 * shape.row + shape.column] = (
            1 + list(SIZES).index(shape.size), 1 + list(COLOURS).index(shape.colour), 1 + KINDS.index(shape.kind)
        )  # fmt: skip
    return labels


def training_example(seed: int, index: int) -> tuple[np.ndarray, str, np.ndarray, int]:
    """Pixels (IMAGE_SIZE, IMAGE_SIZE, 3) as the processor resizes them, caption, cell labels, texture label."""
    rng = stream("train", seed, index, "all")
    scene = make_scene(rng, int(rng.choice(NUMBERS, p=(0.16, 0.22, 0.28, 0.34))), rng.random() < 0.5)
    data = encode(scene, file_form(rng), rng)
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    texture = 1 + TEXTURES.index(scene.texture) if scene.texture else 0
    return np.asarray(image), caption(scene), cell_labels(scene), texture


def draw_forever(queue: multiprocessing.Queue, seed: int, first: int, step: int) -> None:
    for start in itertools.count(first * 64, step * 64):
        pixels, captions, cells, textures = zip(*(training_example(seed, start + i) for i in range(64)), strict=True)
        queue.put((np.stack(pixels), captions, np.stack(cells), np.array(textures)))


class Pool:
    """Examples on the device. When it is full, new ones replace the oldest."""

    def __init__(self, capacity: int, tokenizer: PreTrainedTokenizerFast, device: str):
        self.capacity, self.tokenizer, self.drawn = capacity, tokenizer, 0
        self.pixels = torch.empty(capacity, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8, device=device)
        self.captions = torch.empty(capacity, CAPTION_LENGTH, dtype=torch.int64, device=device)
        self.cells = torch.empty(capacity, 9, 3, dtype=torch.int64, device=device)
        self.textures = torch.empty(capacity, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return min(self.drawn, self.capacity)

    def add(self, pixels: np.ndarray, captions: list[str], cells: np.ndarray, textures: np.ndarray) -> None:
        ids = np.full((len(captions), CAPTION_LENGTH), self.tokenizer.pad_token_id, np.int64)
        for row, tokens in enumerate(self.tokenizer(list(captions))["input_ids"]):
            ids[row, : len(tokens) + 1] = [*tokens, self.tokenizer.eos_token_id]
        rows = (torch.arange(len(captions)) + self.drawn) % self.capacity
        for mine, new in zip(
            (self.pixels, self.captions, self.cells, self.textures), (pixels, ids, cells, textures), strict=True
        ):
            mine[rows.to(mine.device)] = torch.from_numpy(new).to(mine.device)
        self.drawn += len(captions)

    def fill_from(self, queue: multiprocessing.Queue, stop: threading.Event) -> None:
        while not stop.is_set():
            self.add(*queue.get())


# ---- training


class Trainer(torch.nn.Module):
    """The model and, for training only, heads that read what each cell of the grid holds from the image features.

    The heads give the vision tower a direct signal; without them it must learn to see through the text alone."""

    def __init__(self, model: LlavaForConditionalGeneration):
        super().__init__()
        self.model = model
        self.image_id = model.config.image_token_id
        width = model.config.text_config.hidden_size
        counts = (len(SIZES), len(COLOURS), len(KINDS))
        self.cell_heads = torch.nn.ModuleList(torch.nn.Linear(width, 1 + count) for count in counts)
        self.texture_head = torch.nn.Linear(width, 1 + len(TEXTURES))

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image features (B, IMAGE_TOKENS, width) and logits (B, L, VOCABULARY), padding on the right.

        The same arithmetic as the model's own forward: with padding on the right no attention mask is needed."""
        body = self.model.model
        features = body.vision_tower.embeddings(pixels)
        for layer in body.vision_tower.encoder.layers:
            features = layer(features, None)
        features = body.multi_modal_projector(features)
        text = body.language_model
        hidden = text.embed_tokens(ids)
        image = (ids == self.image_id)[..., None]
        hidden = hidden.masked_scatter(image, features.to(hidden.dtype))
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        rotary = text.rotary_emb(hidden, position_ids=positions)
        for layer in text.layers:
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary, position_ids=positions)
        return features, self.model.lm_head(text.norm(hidden))

    def scene_loss(self, features: torch.Tensor, cells: torch.Tensor, textures: torch.Tensor) -> torch.Tensor:
        patches = IMAGE_SIZE // PATCH_SIZE
        features = features.float().unflatten(1, (3, patches // 3, 3, patches // 3))
        grid = features.mean((2, 4)).flatten(1, 2)  # (B, 9, width)
        loss = F.cross_entropy(self.texture_head(grid.mean(1)), textures)
        for head, labels in zip(self.cell_heads, cells.unbind(-1), strict=True):
            loss = loss + F.cross_entropy(head(grid).flatten(0, 1), labels.flatten())
        return loss


def compose(prompts: torch.Tensor, lengths: torch.Tensor, captions: torch.Tensor, pad: int) -> torch.Tensor:
    """Each prompt followed by its caption: ids (B, prompt room + CAPTION_LENGTH), padding on the right."""
    room = prompts.shape[1]
    at = torch.arange(room + CAPTION_LENGTH, device=prompts.device)[None] - lengths[:, None]
    from_caption = captions.gather(1, at.clamp(0, CAPTION_LENGTH - 1))
    from_caption = from_caption.masked_fill(at >= CAPTION_LENGTH, pad)
    return torch.where(at < 0, F.pad(prompts, (0, CAPTION_LENGTH), value=pad), from_caption)


def normalised(pixels: torch.Tensor, jitter: bool) -> torch.Tensor:
    """uint8 (B, H, W, 3) to (B, 3, H, W) in [-1, 1], as the processor does; with slight noise in training."""
    pixels = pixels.permute(0, 3, 1, 2).float()
    if jitter:
        shade = torch.randn(len(pixels), 3, 1, 1, device=pixels.device) * 2
        grain = torch.rand(len(pixels), 1, 1, 1, device=pixels.device) * 3
        pixels = (pixels + shade + grain * torch.randn_like(pixels)).clamp(0, 255)
    return pixels / 127.5 - 1


def next_tokens(ids: torch.Tensor, lengths: torch.Tensor, image_id: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token at each position, and its weight in the loss: 1 in the caption, little in the prompt, 0 elsewhere.

    The little keeps the output side of all other tokens alive, which adapters for other texts build on."""
    targets = ids[:, 1:]
    in_caption = torch.arange(1, ids.shape[1], device=ids.device)[None] >= lengths[:, None]
    weights = torch.where(in_caption, 1.0, 0.02) * ((targets != pad) & (targets != image_id))
    return targets, weights


@torch.no_grad()
def exact_share(trainer: Trainer, pool: Pool, prompts: torch.Tensor, lengths: torch.Tensor) -> float:
    """Share of the pool captioned exactly: greedy decoding is exact just when every token is, given those before."""
    pad, image_id, device = pool.tokenizer.pad_token_id, trainer.image_id, prompts.device
    exact = 0
    for rows in torch.arange(len(pool), device=device).split(256):
        chosen = rows % len(prompts)
        ids = compose(prompts[chosen], lengths[chosen], pool.captions[rows], pad)
        _, logits = trainer(normalised(pool.pixels[rows], False), ids)
        targets, weights = next_tokens(ids, lengths[chosen], image_id, pad)
        exact += ((logits[:, :-1].argmax(-1) == targets) | (weights < 1)).all(1).sum().item()
    return exact / len(pool)


def make_optimizer(trainer: Trainer, rate: float) -> torch.optim.Optimizer:
    matrices = [p for p in trainer.parameters() if p.ndim > 1]
    vectors = [p for p in trainer.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))


def train(arguments: argparse.Namespace) -> None:
    device, batch_size = arguments.device, arguments.batch_size
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=4 * arguments.workers)
    for first in range(arguments.workers):
        context.Process(
            target=draw_forever, args=(queue, arguments.seed, first, arguments.workers), daemon=True
        ).start()
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    processor = build_processor()
    tokenizer = processor.tokenizer
    short, long = (
        tuple(part.to(device) for part in make_prompts(processor, *shape, seed=arguments.seed))
        for shape in ((8000, range(1, 13), 48), (1000, range(20, 120), 256))
    )
    trainer = Trainer(build_model(tokenizer)).to(device)
    forward = torch.compile(trainer) if arguments.compile else trainer
    optimizer = make_optimizer(trainer, arguments.rate)
    average = copy.deepcopy(trainer).requires_grad_(False)
    unseen, pool = Pool(arguments.holdout, tokenizer, device), Pool(arguments.pool, tokenizer, device)
    while unseen.drawn < arguments.holdout:
        unseen.add(*queue.get())
    while pool.drawn < 16 * batch_size:
        pool.add(*queue.get())
    stop = threading.Event()
    feeder = threading.Thread(target=pool.fill_from, args=(queue, stop), daemon=True)
    feeder.start()

    begin = saved = time.monotonic()
    for step in itertools.count():
        minutes = (time.monotonic() - begin) / 60
        progress = minutes / arguments.minutes
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * min(1, (step + 1) / 500) * 0.5 * (1 + math.cos(math.pi * progress))
        prompts, lengths = long if step % 20 == 19 else short
        chosen = torch.randint(len(prompts), (batch_size,), device=device)
        rows = torch.randint(len(pool), (batch_size,), device=device)
        ids = compose(prompts[chosen], lengths[chosen], pool.captions[rows], tokenizer.pad_token_id)
        targets, weights = next_tokens(ids, lengths[chosen], trainer.image_id, tokenizer.pad_token_id)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            features, logits = forward(normalised(pool.pixels[rows], True), ids)
        losses = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="none")
        caption_loss = (losses * weights.flatten()).sum() / weights.sum()
        scene_loss = trainer.scene_loss(features, pool.cells[rows], pool.textures[rows])
        optimizer.zero_grad()
        (caption_loss + 0.3 * scene_loss).backward()
        torch.nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        optimizer.step()
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(trainer.parameters()), 1 - decay)
        if step % arguments.report_every == 0:
            exact = exact_share(average, unseen, *short)
            print(
                f"step {step} minute {minutes:.2f} drawn {pool.drawn} caption loss {caption_loss.item():.4f} "
                f"scene loss {scene_loss.item():.4f} exact {exact:.2%}",
                flush=True,
            )
        if time.monotonic() - saved > 120:
            save(average.model, processor, arguments.out)
            saved = time.monotonic()
    stop.set()
    save(average.model, processor, arguments.out)
    print(f"{step} steps of {batch_size}, {pool.drawn} pictures drawn, {minutes:.1f} minutes", flush=True)
    print(f"unseen, prompts short and long: {exact_share(average, unseen, *short):.2%}", end=" ")
    print(f"{exact_share(average, unseen, *long):.2%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded model on drawn scenes.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the model")
    parser.add_argument("--minutes", type=float, default=14, help="training time (default: 14)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=15, help="processes that draw (default: 15)")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--pool", type=int, default=1_000_000, help="examples kept on the device (default: a million)")
    parser.add_argument("--holdout", type=int, default=2048, help="examples kept from training, to report on")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate (default: 1e-3)")
    parser.add_argument("--report-every", type=int, default=500, help="steps between reports (default: 500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="compile the forward pass")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
