"""Products of a model's shapes in the ways that cuBLASLt has for them, on a GPU that is warm.

    python scripts/bench_products.py [--only smolvlm] [--seconds 0.5]

For each shape, fp16: what torch takes, what a run would take (caption/engine/products.py), and the best of the others,
each in a loop of --seconds by itself after all have been tried once. Prints TFLOP/s, the power that is drawn, and the
GPU's clock at the end of the loop: where power is the limit, the way that takes least energy is the fastest. Ways are
named by tile, cluster and custom option, in the numbers of cublasLt.h.
"""

import argparse
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from gpu_meter import Figures, Meter

from caption.engine import products
from caption.engine.cublaslt import Product, Shape, described

SHAPES = {  # by where it is: rows of a full group, and the shape
    "smolvlm-500m vision, queries, keys, values": (346_112, "bias", 2304, 768),
    "smolvlm-500m vision, after attention": (346_112, "added bias", 768, 768),
    "smolvlm-500m vision, MLP": (346_112, "gelu", 3072, 768),
    "smolvlm-500m vision, MLP's end": (346_112, "added bias", 768, 3072),
    "smolvlm-500m text, MLP": (23_712, "plain", 5120, 960),
    "smolvlm-500m text, MLP's end": (23_712, "added", 960, 2560),
    "siglip-so400m, MLP": (93_312, "gelu", 4304, 1152),
    "qwen2.5-vl vision, queries, keys, values": (86_020, "bias", 3840, 1280),
    "qwen2.5-vl vision, MLP": (86_020, "bias", 6912, 1280),
    "qwen2.5-vl vision, MLP's end": (86_020, "added", 1280, 3456),
    "qwen2.5-vl-3b text, MLP": (24_310, "plain", 22_016, 2048),
    "qwen2.5-vl-7b text, MLP": (24_310, "plain", 37_888, 3584),
    "qwen2.5-vl-7b text, MLP's end": (24_310, "added", 3584, 18_944),
}
OTHERS = 4  # that are shown


def row(figures: Figures, tera: float) -> str:
    """tera: operations of a run, in 10**12."""
    return f"{tera / figures.seconds:.0f}, {figures.watts:.0f}, {figures.clock}"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="shapes whose name begins so")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a loop")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("it needs a GPU")
    meter, device = Meter(), torch.device("cuda", 0)
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    print(f"| {machine}: TFLOP/s, W, MHz | torch | a run | others |")
    print("| --- | --- | --- | --- |")
    for where, (rows, *sizes) in SHAPES.items():
        if not where.startswith(given.only):
            continue
        shape = Shape(*sizes, torch.float16)
        product, tera = Product(shape, device), 2 * rows * shape.columns * shape.inner / 1e12
        taken = products.fastest(product, device) if products.may_win(shape) else b""
        trial = products.Trial(product, rows, device)
        works = {way: functools.partial(trial.by, way) for way in product.ways(rows)}
        took = {way: products.seconds(work, products.RUNS) for way, work in works.items() if work()}
        best = [way for way in sorted(took, key=took.get) if way != taken][:OTHERS]
        shown = (*([taken] if taken else []), *best)
        figures = {way: row(meter.measured(works[way], given.seconds), tera) for way in shown}
        by_torch = row(meter.measured(trial.by_torch, given.seconds), tera)
        ran = f"{described(taken)}: {figures[taken]}" if taken else "as torch"
        others = "; ".join(f"{described(way)}: {figures[way]}" for way in best)
        print(f"| {where}, {shape.columns} x {shape.inner}, {shape.kind} | {by_torch} | {ran} | {others} |", flush=True)
        del trial, works
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
