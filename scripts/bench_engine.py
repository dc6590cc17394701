"""How fast the engines caption: slots beside batches of generate, in one run.

    python scripts/bench_engine.py --small [--images 96] [--threads 2] [--device cpu]

--small: the embedded model on drawn scenes, prepared before the clock starts, at 8 and 16 images side by side. The
engines take turns, and the best round of each counts: on a shared machine the others measure the neighbours. CPU
seconds are those of the best round, of all threads. Prints a table.
"""

import argparse
import dataclasses
import io
import os
import sys
import time
from pathlib import Path

from draw_shapes import draw
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in a run's workers; read when torch is imported

from caption.engine import EngineOptions, Request, load_preparer
from caption.engine.base import load
from caption.engine.check import load_fastest
from caption.engine.generate import GenerateEngine
from caption.engine.slots import SlotEngine

SHAPES = Path(__file__).parents[1] / "caption" / "models" / "shapes"
BATCHES = (8, 16)
ROUNDS = 3
SEED = 20  # of the scenes


def caption(engine, requests: list[Request]) -> tuple[tuple[float, float], dict]:
    """Run all requests through the engine. Return the seconds and CPU seconds that took, and the answers by key."""
    waiting, answers = list(requests), {}
    started, cpu = time.perf_counter(), time.process_time()
    while waiting or engine.busy:
        take = min(engine.free, len(waiting))
        if take:
            engine.admit(waiting[:take])
            waiting = waiting[take:]
        answers |= {answer.key: answer for answer in engine.step()}
    return (time.perf_counter() - started, time.process_time() - cpu), answers


def small(images: int, device: str, threads: int) -> None:
    """Print the table of the embedded model."""
    options = EngineOptions(
        str(SHAPES), "fp32", device, BATCHES[0], "Describe this image in detail.", 64, threads=threads
    )  # fmt: skip
    preparer = load_preparer(options)
    scenes = (draw(SEED, index) for index in range(images))
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for _, data, _ in scenes]
    requests = [Request(key, preparer.prepare(picture), key) for key, picture in enumerate(pictures)]
    taken = load_fastest(options)
    print(f"the check at load takes: {taken.name} {taken.fallback or ''}")
    loaded = load(options)
    print(
        "| side by side | images/s: generate | slots | ratio | per CPU s: generate | slots | ratio | captions equal |"
    )
    print("| ---: " * 8 + "|")
    for batch in BATCHES:
        settings = dataclasses.replace(options, batch_size=batch)
        engines, best, texts = (GenerateEngine, SlotEngine), {}, {}
        for _ in range(ROUNDS):
            for engine in engines:
                seconds, answers = caption(engine(settings, loaded), requests)
                best[engine] = min(seconds, best.get(engine, seconds))
                texts[engine] = [answers[key].text for key in range(images)]
        rates = [[images / best[engine][clock] for engine in engines] for clock in (0, 1)]
        equal = sum(one == other for one, other in zip(*(texts[engine] for engine in engines)))
        figures = [figure for one, other in rates for figure in (f"{one:.1f}", f"{other:.1f}", f"{other / one:.2f}")]
        print(f"| {batch} | {' | '.join(figures)} | {equal}/{images} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", required=True, help="the embedded model")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    given = parser.parse_args()
    small(given.images, given.device, given.threads)


if __name__ == "__main__":
    main()
