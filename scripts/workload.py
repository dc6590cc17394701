"""What benchmarks on GPUs have in common: photo-like JPEGs, and captions of forced lengths."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image

from caption.guard.actions import FLAGS

PROMPT = "Describe this image in detail."
LEAST, MEAN, MOST, SPREAD = 16, 95, 256, 0.5  # tokens of a caption; the spread of its logarithm
DISTINCT = 64  # pictures; others are the same again


def lengths(count: int) -> list[int]:
    """Tokens of each caption."""
    drawn = np.random.default_rng(1).lognormal(np.log(MEAN) - SPREAD**2 / 2, SPREAD, count)
    return [int(one) for one in drawn.clip(LEAST, MOST)]


def photo(seed: int, width: int, height: int) -> Image.Image:
    """Soft forms under fine noise: a JPEG of it is as large, and takes as long, as one of a photo."""
    random = np.random.default_rng(seed)
    forms = Image.fromarray(random.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8))
    soft = np.asarray(forms.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray((soft * 0.9 + random.integers(0, 25, (height, width, 1))).astype(np.uint8))


def draw_photos(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """JPEGs in a new folder, of which DISTINCT are different ones."""
    folder.mkdir()
    files = []
    for index in range(count):
        files.append(folder / f"{index:06d}.jpg")
        if index < DISTINCT:
            photo(index, *size).save(files[-1], quality=90)
        else:
            os.link(files[index % DISTINCT], files[-1])
    return files


def run_command(model: Path, manifest: Path, out: Path, files: list[Path], lengths: list[int]) -> list[str]:
    """The command that captions the files, each with a length of its own; writes the manifest."""
    rows = ({"image": str(file), "max_new_tokens": length} for file, length in zip(files, lengths))
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "caption.run", str(manifest), "--output", str(out)]
    command += ["--model", str(model), "--prompt", PROMPT, "--max-new-tokens", str(MOST)]
    return [*command, "--on-flag", ",".join(f"{flag}=keep" for flag in FLAGS)]  # nonsense is not tried again
