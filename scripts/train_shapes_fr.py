"""Train `shapes-fr`, a LoRA adapter under which the embedded model `shapes` captions in French.

    python scripts/train_shapes_fr.py OUT --minutes 15

Only the text model learns. The frozen vision tower sees each scene once, before the training: its features are kept.
The scenes come from a space of their own: no --seed of draw_shapes.py draws one of them. OUT receives the adapter as
peft saves it, with weights in fp16.
"""

import argparse
import io
import itertools
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from build_shapes import make_prompts
from draw_shapes import NUMBERS, encode, file_form, make_scene, stream
from french import caption
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from train_shapes import normalised
from transformers import AutoModelForImageTextToText, AutoProcessor

SHAPES = Path(__file__).resolve().parents[1] / "caption" / "models" / "shapes"
LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
CAPTION_LENGTH = 80  # tokens, the end token included


def example(seed: int, index: int, side: int) -> tuple[np.ndarray, str]:
    """Pixels (side, side, 3) as the processor resizes them, and the caption."""
    rng = stream("train-fr", seed, index, "all")
    scene = make_scene(rng, int(rng.choice(NUMBERS, p=(0.22, 0.22, 0.26, 0.3))), rng.random() < 0.5)
    image = Image.open(io.BytesIO(encode(scene, file_form(rng), rng))).convert("RGB")
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)), caption(scene)


class Scenes:
    """`count` scenes: features of the vision tower (count, 144, width) in fp16, and padded caption ids."""

    def __init__(self, body: torch.nn.Module, tokenizer, seed: int, first: int, count: int):
        side = body.config.vision_config.image_size
        features, ids = [], torch.full((count, CAPTION_LENGTH), tokenizer.pad_token_id)
        for start in range(0, count, 64):
            examples = [example(seed, first + i, side) for i in range(start, min(start + 64, count))]
            pixels = normalised(torch.from_numpy(np.stack([pixels for pixels, _ in examples])), False)
            with torch.inference_mode():  # as the model's own forward: without the tower's last norm
                states = body.vision_tower.embeddings(pixels)
                for layer in body.vision_tower.encoder.layers:
                    states = layer(states, None)
                features.append(body.multi_modal_projector(states).half())
            for row, (_, text) in enumerate(examples, start):
                tokens = [*tokenizer.encode(text), tokenizer.eos_token_id]
                ids[row, : len(tokens)] = torch.tensor(tokens)
        self.features, self.ids = torch.cat(features).clone(), ids


class Learner:
    """The text model and its adapter, fed with features instead of pictures."""

    def __init__(self, arguments: argparse.Namespace):
        processor = AutoProcessor.from_pretrained(SHAPES)
        self.tokenizer = processor.tokenizer
        self.base = AutoModelForImageTextToText.from_pretrained(SHAPES, dtype=torch.float32)
        self.prompts, self.lengths = make_prompts(processor, 2000, range(1, 13), 48, arguments.seed)
        if arguments.start:
            self.model = PeftModel.from_pretrained(self.base, arguments.start, is_trainable=True)
        else:
            config = LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=LAYERS)
            self.model = get_peft_model(self.base, config)

    def logits(self, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """(B, L, vocabulary). With padding on the right no attention mask is needed."""
        text = self.base.model.language_model
        hidden = text.embed_tokens(ids)
        image = (ids == self.base.config.image_token_id)[..., None]
        hidden = hidden.masked_scatter(image, features.to(hidden.dtype))
        return self.base.lm_head(text(inputs_embeds=hidden, use_cache=False).last_hidden_state)

    def loss(self, scenes: Scenes, rows: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean over the captions' tokens, and bool(B): whether each caption is exact, given its own beginning."""
        pad = self.tokenizer.pad_token_id
        sequences = [
            torch.cat([self.prompts[prompt, : self.lengths[prompt]], scenes.ids[row][scenes.ids[row] != pad]])
            for row, prompt in zip(rows.tolist(), prompts.tolist(), strict=True)
        ]
        ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=pad)
        logits, targets = self.logits(scenes.features[rows], ids)[:, :-1], ids[:, 1:]
        told = (torch.arange(1, ids.shape[1]) >= self.lengths[prompts][:, None]) & (targets != pad)
        exact = ((logits.argmax(-1) == targets) | ~told).all(1)
        return F.cross_entropy(logits[told], targets[told]), exact

    @torch.inference_mode()
    def exact_share(self, scenes: Scenes) -> float:
        rows = torch.arange(len(scenes.ids))
        exact = [self.loss(scenes, part, part % len(self.prompts))[1] for part in rows.split(64)]
        return torch.cat(exact).float().mean().item()

    def save(self, out: Path) -> None:
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.half()
        self.model.peft_config["default"].base_model_name_or_path = "shapes"  # and not where it lies here
        self.model.save_pretrained(out)


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    learner = Learner(arguments)
    parameters = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
    print(f"{sum(map(torch.numel, parameters)):,} parameters to train", flush=True)
    body = learner.base.model
    unseen = Scenes(body, learner.tokenizer, arguments.seed, 0, arguments.holdout)
    scenes = Scenes(body, learner.tokenizer, arguments.seed, arguments.holdout, arguments.scenes)
    print(f"{arguments.scenes} scenes drawn and seen", flush=True)
    optimizer = torch.optim.AdamW(parameters, lr=arguments.rate, betas=(0.9, 0.98), weight_decay=0.0)
    begin = time.monotonic()
    for step in itertools.count():
        progress = (time.monotonic() - begin) / 60 / arguments.minutes
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * progress))
        rows = torch.randint(arguments.scenes, (arguments.batch_size,))
        loss, exact = learner.loss(scenes, rows, torch.randint(len(learner.prompts), (arguments.batch_size,)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step} {progress:.0%} loss {loss.item():.4f} exact {exact.float().mean():.2f}", flush=True)
    learner.save(arguments.out)
    print(f"{step} steps of {arguments.batch_size}; unseen: {learner.exact_share(unseen):.2%} exact", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the French adapter of the embedded model.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the adapter")
    parser.add_argument("--start", type=Path, metavar="ADAPTER", help="go on with this one")
    parser.add_argument("--minutes", type=float, default=15, help="training time (default: 15)")
    parser.add_argument("--scenes", type=int, default=8000, help="scenes to learn from (default: 8000)")
    parser.add_argument("--holdout", type=int, default=512, help="scenes kept from training, to report on")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate (default: 3e-3)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
