"""Products of a model's shapes in the ways that cuBLASLt has for them, on a GPU that is warm.

    python scripts/bench_products.py [--only smolvlm] [--seconds 0.5]

For each shape, fp16: what torch takes, what a run would take (caption/engine/products.py), and the best of the others,
each in a loop of --seconds by itself after all have been tried once. Prints TFLOP/s, the power that is drawn, and the
GPU's clock at the end of the loop: where power is the limit, the way that takes least energy is the fastest. Ways are
named by tile, cluster and custom option, in the numbers of cublasLt.h.
"""

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pynvml
import torch

from caption.engine import products
from caption.engine.cublaslt import Product, Shape, described

SHAPES = {  # by where it is: rows of a full group, and the shape
    "smolvlm-500m vision, queries, keys, values": (346_112, "bias", 2304, 768),
    "smolvlm-500m vision, after attention": (346_112, "bias", 768, 768),
    "smolvlm-500m vision, MLP": (346_112, "gelu", 3072, 768),
    "smolvlm-500m vision, MLP's end": (346_112, "added", 768, 3072),
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
WARM = 0.2  # seconds of a loop that do not count
TOGETHER = 15.0  # operations between two looks at the clock, in 10**12: they take some 25 ms


class Gpu:
    """The first that torch sees, as its driver sees it."""

    def __init__(self):
        pynvml.nvmlInit()
        self.handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")

    @property
    def joules(self) -> float:
        """Used since the driver was loaded."""
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1e3

    @property
    def clock(self) -> int:
        """In MHz."""
        return pynvml.nvmlDeviceGetClockInfo(self.handle, pynvml.NVML_CLOCK_SM)

    def measured(self, work: Callable, seconds: float, tera: float) -> str:
        """TFLOP/s, W, MHz. tera: operations of a run, in 10**12.

        From one change of the driver's count of energy to another, as that comes some ten times a second only. The GPU
        always has the next products to do.
        """
        begin, seen, runs, before = time.perf_counter(), self.joules, 0, None
        first: tuple[float, float, int] | None = None  # when, joules, runs
        together = math.ceil(TOGETHER / tera)
        while True:
            for _ in range(together):
                work()
            runs, event = runs + together, torch.cuda.current_stream().record_event()
            if before:
                before.synchronize()
            before, now, joules = event, time.perf_counter(), self.joules
            if joules != seen and now > begin + WARM:
                if first is None:
                    first = now, joules, runs
                elif now > first[0] + seconds:
                    break
            seen = joules
        clock, passed = self.clock, now - first[0]
        torch.cuda.synchronize()
        return f"{(runs - first[2]) * tera / passed:.0f}, {(joules - first[1]) / passed:.0f}, {clock}"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="shapes whose name begins so")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a loop")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("it needs a GPU")
    gpu, device = Gpu(), torch.device("cuda", 0)
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
        figures = {way: gpu.measured(works[way], given.seconds, tera) for way in (*([taken] if taken else []), *best)}
        by_torch = gpu.measured(trial.by_torch, given.seconds, tera)
        ran = f"{described(taken)}: {figures[taken]}" if taken else "as torch"
        others = "; ".join(f"{described(way)}: {figures[way]}" for way in best)
        print(f"| {where}, {shape.columns} x {shape.inner}, {shape.kind} | {by_torch} | {ran} | {others} |", flush=True)
        del trial, works
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
