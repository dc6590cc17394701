"""How often a scorer gives the right caption of a fresh scene a higher score than a wrong one.

    python scripts/eval_scorer.py caption/models/shapes-scorer --seed 101 102 103 --count 300

It loads the folder as any image-text model is loaded, through the Auto classes. For each picture the wrong captions are
those of all other pictures of its seed that read differently (shuffled), and its own with one thing changed.
"""

import argparse
import io
import itertools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from draw_shapes import caption, describe, draw
from PIL import Image
from train_scorer import changed
from transformers import AutoModel, AutoProcessor

CHANGED = 4  # captions with one thing changed a picture


class Encoder:
    """A model and its processor; unit vectors of pictures and of texts, (n, width) each."""

    def __init__(self, folder: Path, device: str = "cpu"):
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).to(device).eval()
        self.device = device

    @torch.inference_mode()
    def images(self, images: list[Image.Image]) -> torch.Tensor:
        inputs = self.processor(images=images, return_tensors="pt").to(self.device)
        return F.normalize(self.model.get_image_features(**inputs).pooler_output, dim=-1)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> torch.Tensor:
        inputs = self.processor(text=texts, padding="max_length", truncation=True, return_tensors="pt")
        return F.normalize(self.model.get_text_features(**inputs.to(self.device)).pooler_output, dim=-1)


def shares(encoder: Encoder, seed: int, count: int, batch: int = 64) -> tuple[float, int, float, int]:
    """Share of the pairs of a right and a shuffled caption in which the right one has the higher score, and their
    number; the same of changed captions."""
    rng = np.random.default_rng(seed)
    scenes = [describe(seed, index)[1] for index in range(count)]
    right = [caption(scene) for scene in scenes]
    wrong = [caption(changed(scene, rng)) for scene in scenes for _ in range(CHANGED)]
    pictures = (Image.open(io.BytesIO(draw(seed, index)[1])).convert("RGB") for index in range(count))
    image = torch.cat([encoder.images(part) for part in iter(lambda: list(itertools.islice(pictures, batch)), [])])
    text, changed_text = (
        torch.cat([encoder.texts(texts[start : start + batch]) for start in range(0, len(texts), batch)])
        for texts in (right, wrong)
    )
    scores = image @ text.T
    own = scores.diagonal()[:, None]
    differ = torch.tensor([[one != other for other in right] for one in right])
    to_changed = (image[:, None] * changed_text.unflatten(0, (count, CHANGED))).sum(-1)
    own_words = [one for one in right for _ in range(CHANGED)]
    differ_changed = torch.tensor([one != other for one, other in zip(own_words, wrong)]).view(count, -1)
    above, above_changed = (own > scores.cpu())[differ], (own > to_changed)[differ_changed]
    return above.float().mean().item(), above.numel(), above_changed.float().mean().item(), above_changed.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description="Right captions against wrong ones, on fresh scenes.")
    parser.add_argument("model", type=Path, metavar="FOLDER")
    parser.add_argument("--seed", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--count", type=int, default=300, help="scenes a seed (default: 300)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    encoder = Encoder(arguments.model, arguments.device)
    for seed in arguments.seed:
        shuffled, pairs, one_changed, changed_pairs = shares(encoder, seed, arguments.count)
        print(
            f"seed {seed}: the right caption scores higher than a shuffled one in {shuffled:.3%} of {pairs:,} pairs, "
            f"than one with one thing changed in {one_changed:.2%} of {changed_pairs:,}",
            flush=True,
        )


if __name__ == "__main__":
    main()
