"""Count how many fresh scenes a model captions exactly.

    python scripts/eval_shapes.py caption/models/shapes --seed 101 102 103 --count 1000 --device cpu --dtype fp32

It loads the folder as any image-text model is loaded, through the Auto classes, and decodes greedily.
"""

import argparse
import io
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from draw_shapes import draw
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PROMPT = "Describe this image in detail."
MAX_NEW_TOKENS = 64


class Captioner:
    """A model and its processor; `caption` takes a list of pictures and gives their captions."""

    def __init__(self, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32):
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.device, self.dtype = device, dtype

    @torch.inference_mode()
    def caption(self, images: list[Image.Image], prompt: str = PROMPT) -> list[str]:
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        text = self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        inputs = self.processor(images=images, text=[text] * len(images), return_tensors="pt", padding=True)
        inputs = inputs.to(self.device, dtype=self.dtype)
        output = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new_tokens, skip_special_tokens=True)]


def scenes(seed: int, count: int) -> Iterator[tuple[Image.Image, str]]:
    for index in range(count):
        _, data, truth = draw(seed, index)
        yield Image.open(io.BytesIO(data)).convert("RGB"), truth


def wrong_captions(
    captioner: Captioner, pairs: Iterable[tuple[Image.Image, str]], batch_size: int = 32, prompt: str = PROMPT
) -> tuple[list[tuple[str, str]], float]:
    """All (truth, caption) that differ, and the seconds that preprocessing and generating took."""
    wrong, seconds = [], 0.0
    pairs = iter(pairs)
    while batch := list(islice(pairs, batch_size)):
        images, truths = zip(*batch, strict=True)
        begin = time.perf_counter()
        captions = captioner.caption(list(images), prompt)
        seconds += time.perf_counter() - begin
        wrong += [pair for pair in zip(truths, captions, strict=True) if pair[0] != pair[1]]
    return wrong, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Count how many fresh scenes a model captions exactly.")
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--seed", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--count", type=int, default=1000, help="scenes a seed (default: 1000)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--prompt", default=PROMPT)
    arguments = parser.parse_args()
    captioner = Captioner(arguments.model, arguments.device, DTYPES[arguments.dtype])
    for seed in arguments.seed:
        pairs = scenes(seed, arguments.count)
        wrong, seconds = wrong_captions(captioner, pairs, arguments.batch_size, arguments.prompt)
        for truth, caption in wrong:
            print(f"  truth:   {truth}\n  caption: {caption}")
        exact = 1 - len(wrong) / arguments.count
        print(
            f"seed {seed}: {exact:.2%} of {arguments.count} exact, {arguments.count / seconds:.1f} images/s "
            f"({arguments.device}, {arguments.dtype})",
            flush=True,
        )


if __name__ == "__main__":
    main()
