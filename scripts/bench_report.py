"""How long a report and a comparison take, their memory and size: ``python scripts/bench_report.py [--rows N]``.

Of made-up rows with captions of 20 to 120 words, their scores, a week of statistics of eight GPUs, and 500 drawn
pictures.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import checkpoint
from caption.outputs.rows import CAPTIONS, FAILED
from caption.runfile import RunFile

ROOT = Path(__file__).resolve().parents[1]
PICTURES, SIZE = 500, (1024, 768)
OPENINGS = (
    "The image shows a",
    "The image depicts a",
    "This image features the",
    "A close-up of a",
    "In this photo, a",
)
FLAGS = ("cut-off", "loop", "refusal")
WEEK = 7 * 86400


def draw_pictures(folder: Path) -> None:
    """Blurred noise, which is about as large as a photograph."""
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for place in range(PICTURES):
        small = Image.fromarray(numbers.integers(0, 256, (96, 128, 3), np.uint8))
        small.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{place:03}.jpg", quality=88)


def make_job(out: Path, pictures: Path, rows: int, seed: int) -> None:
    """One row in a hundred has failed, one in twenty has a flag."""
    run = RunFile(out, {"input": str(pictures), "prompt": "Describe this image."}, {"model": f"made-up-{seed}"})
    run.note(seats=[{"name": f"cuda{place}", "device": "cuda", "loaders": 2} for place in range(8)])
    dice = random.Random(seed)
    words = [f"{a}{b}{c}" for a in ("br", "cl", "st", "m", "t", "v") for b in "aeiou" for c in ("ck", "ne", "rd", "st")]
    words += [f"{first}{second}" for first in words for second in words[:100]]
    weights = [1 / (place + 5) for place in range(len(words))]
    text = dice.choices(words, weights, k=1_000_000)
    with checkpoint.open(out, {}) as record:
        for begin in range(0, rows, 10_000):
            made = {CAPTIONS: [], FAILED: []}
            for place in range(begin, min(begin + 10_000, rows)):
                row = {"id": f"{place // 1000:05}/{place:08}.jpg", "image": f"{place % PICTURES:03}.jpg"}
                if place % 100 == 99:
                    row |= {
                        "error": "Truncated",
                        "message": "its data are broken: image file is truncated",
                        "attempts": 1,
                    }
                    made[FAILED].append((row["id"], orjson.dumps(row)))
                    continue
                count, at = dice.randint(20, 120), dice.randrange(len(text) - 120)
                caption = f"{dice.choices(OPENINGS, (60, 12, 9, 6, 3))[0]} {' '.join(text[at : at + count])}."
                row |= {"caption": caption, "finish_reason": "stop", "tokens": count * 4 // 3, "width": SIZE[0]}
                row |= {"height": SIZE[1], "seed": place, "seconds": 1.0, "attempts": 1}
                row["flags"] = [dice.choice(FLAGS)] if place % 20 == 7 else []
                made[CAPTIONS].append((row["id"], orjson.dumps(row)))
            for name, of in made.items():
                record.append(name, of)
    with (out / "scores.jsonl").open("wb") as file:
        for place in range(rows):
            score = round(dice.gauss(0.3, 0.05), 4)
            row = {"id": f"{place // 1000:05}/{place:08}.jpg", "score": score, "parts": {"window 1": score}}
            file.write(orjson.dumps(row | {"scorer": f"made-up-{seed}"}) + b"\n")
    write_statistics(out / "stats.jsonl", rows)


def write_statistics(path: Path, rows: int) -> None:
    """An entry each ten seconds."""
    begin = time.time()
    with path.open("wb") as file:
        for second in range(0, WEEK, 10):
            row = {"time": begin + second, "images": rows * second // WEEK, "failures": 0, "cpu_percent": 40.0}
            file.write(orjson.dumps(row | {"ram_used": 90e9, "ram_total": 256e9}) + b"\n")
            for worker in range(8):
                row = {"time": begin + second, "worker": f"cuda{worker}", "gpu_percent": 85 + second // 10 % 13}
                row |= {
                    "seconds": {"generating": second * 0.9, "preprocessing": second * 0.08, "starved": second * 0.1}
                }
                file.write(orjson.dumps(row | {"gpu_memory_used": 70e9, "gpu_memory_total": 80e9}) + b"\n")


def measure(name: str, page: Path, *words: object) -> None:
    begin = time.perf_counter()
    done = subprocess.Popen([sys.executable, "-m", *map(str, words), "--to", page], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(done.pid, 0)
    seconds, size = time.perf_counter() - begin, page.stat().st_size / 1e6 if page.exists() else 0
    busy, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    print(f"{name:<8} {seconds:6.1f} s ({busy:.1f} s of a core)   peak {peak:,.0f} MiB   page {size:.1f} MB")
    assert status == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_pictures(folder / "pictures")
        for job in (1, 2):
            (folder / f"out{job}").mkdir()
            make_job(folder / f"out{job}", folder / "pictures", given.rows, job)
        measure("report", folder / "report.html", "caption.report", folder / "out1")
        measure("compare", folder / "compare.html", "caption.compare", folder / "out1", folder / "out2")


if __name__ == "__main__":
    main()
