"""How fast the engine captions, beside what else could be done with the same GPU.

    python scripts/bench_engine.py --model qwen2.5-vl-7b [--size 640x480] [--images 768] [--only engine,run]
    python scripts/bench_engine.py --small [--images 96] [--threads 2] [--device cpu] [--dtype fp32]

--model: random weights at the real model's shape (see random_model.py) and photo-like JPEGs, on a GPU, in fp16. Each
caption has a length of its own, 16 to 256 tokens, drawn from a lognormal of mean 95 for every way alike. Prints, from
one run: what the GPU can do (ceilings) and the least time that follows from it for an image (floor); the recipe of
most scripts (Pillow, processor and generate, eight at a time); generate with a static cache, 64 at a time, prepared
before; this engine alone on prepared pictures, with its parts; and python -m caption.run, from JPEG files to rows on
disk, the loading of the model aside. --only: some of ceilings, recipe, static, engine, run.

--small: the embedded model on drawn scenes, prepared before the clock starts, at 8 and 16 images side by side. The
engines take turns, and the best round of each counts: on a shared machine the others measure the neighbours. CPU
seconds are those of the best round, of all threads. Where captions differ, it says how near the two words lay.

Each prints a table. What was tried to get there, and what each step gave: bench_engine.md.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in a run's workers; read when torch is imported
sys.path.insert(0, str(Path(__file__).parents[1]))

import random_model
import torch
from draw_shapes import draw
from PIL import Image
from workload import DISTINCT, MEAN, MOST, PROMPT, draw_photos, lengths, run_command

from caption.engine import EngineOptions, Request, load_preparer
from caption.engine.base import Loaded, load, settle
from caption.engine.check import Recorder, load_fastest
from caption.engine.generate import GenerateEngine
from caption.engine.pixels import Packed
from caption.engine.processor import load_processor
from caption.engine.slots import SlotEngine

ROOT = Path(__file__).parents[1]
SHAPES = ROOT / "caption" / "models" / "shapes"
BATCHES = (8, 16)
GPU_BATCHES = (64, 256)
ROUNDS = 3
SEED = 20  # of the scenes
GROUP = 24576  # tokens of the prompts whose parts are timed


def median_seconds(work, rounds: int = 3) -> float:
    """Of some rounds after a first one, with the GPU's work at its end."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


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


def matrix_rate(rows: int, inner: int, columns: int, under_load: float = 0) -> float:
    """Operations a second of a product in fp16, after so many seconds of it: a GPU does less when it is warm."""
    one = torch.randn(rows, inner, dtype=torch.float16, device="cuda")
    other = torch.randn(columns, inner, dtype=torch.float16, device="cuda").t()
    end = time.perf_counter() + under_load
    while time.perf_counter() < end:
        median_seconds(lambda: [one @ other for _ in range(10)], 1)
    return 10 * 2 * rows * inner * columns / median_seconds(lambda: [one @ other for _ in range(10)])


def copy_rate() -> float:
    """Bytes a second, read and written."""
    source = torch.empty(2**32, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 5 * 2 * source.numel() / median_seconds(lambda: [target.copy_(source) for _ in range(5)])


@contextlib.contextmanager
def counted_products(model: torch.nn.Module) -> Iterator[Counter[tuple[int, int, int]]]:
    """Counts the products with weights by their rows, inner side and columns. Attention's own are left out."""
    counted: Counter[tuple[int, int, int]] = Counter()

    def count(module, inputs, output) -> None:
        columns, inner = len(module.weight), module.weight[0].numel()
        counted[output.numel() // columns, inner, columns] += 1

    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, kinds)]
    yield counted
    for hook in hooks:
        hook.remove()


def _locked(inputs: dict) -> dict:
    """The same, with pixels in memory that the GPU copies from by itself."""
    locked = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Packed):
            locked[name] = dataclasses.replace(value, raw=torch.from_numpy(value.raw).pin_memory().numpy())
    return locked


class Bench:
    """One model shape and picture size; each method is a row or a few of the table."""

    def __init__(self, name: str, width: int, height: int, images: int, folder: Path):
        self.name, self.size, self.images, self.work = name, (width, height), images, folder
        self.model_folder = folder / "model"
        random_model.write(name, self.model_folder)
        self.lengths = lengths(images)
        self.options = EngineOptions(str(self.model_folder), "fp16", "cuda", None, PROMPT, MOST)
        self.preparer = load_preparer(self.options)
        self.model = random_model.build(self.model_folder, torch.float16, "cuda")
        processor = load_processor(str(self.model_folder))
        settle(self.model, processor.tokenizer.pad_token_id)
        for module in self.model.modules():  # random words must not end a text before its length
            if getattr(module, "generation_config", None) is not None:
                module.generation_config.eos_token_id = None
        self.loaded = Loaded(self.model, processor, torch.float16, processor.tokenizer.pad_token_id)
        self.files = draw_photos(self.work / "pictures", self.images, self.size)
        self.inputs = [self._prepare(file) for file in self.files[:DISTINCT]]
        self.tokens = self.inputs[0]["input_ids"].shape[1]
        self.parts: dict[str, float] = {}  # ms an image

    def _prepare(self, file: Path) -> dict:
        started = time.perf_counter()
        picture = Image.open(file).convert("RGB")
        opened = time.perf_counter()
        inputs = self.preparer.prepare(picture)
        self.decode, self.preparing = opened - started, time.perf_counter() - opened
        return inputs

    # ---- what the GPU can do ----

    def ceilings(self) -> None:
        """Rates, and the floor: products at the matrix rate, and what steps must read. Then products, warm."""
        side, seconds = 8192, 3
        rate, speed, warm = matrix_rate(*[side] * 3), copy_rate(), matrix_rate(*[side] * 3, seconds)
        engine = SlotEngine(self.options, self.loaded)
        with torch.inference_mode(), counted_products(self.model) as counted:
            group = engine.prefilled([Request(0, self.inputs[0], 0)])
        products = sum(2 * count * math.prod(shape) for shape, count in counted.items())
        cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in group.cache.layers)
        text = self.model.get_decoder()
        read = sum(weight.nbytes for weight in text.parameters()) + self.model.lm_head.weight.nbytes
        new, slots = statistics.mean(self.lengths), 256
        step = read / slots + cache * (1 + new / 2 / self.tokens)
        arithmetic = 2 * new * (read / 2)  # fp16: two bytes a weight
        self.floor = 1e3 * (products / rate + max(new * step / speed, arithmetic / rate))
        print(f"| matrix rate, {side} cubed, fp16 | {rate / 1e12:.0f} TFLOP/s; {warm / 1e12:.0f} after {seconds} s |")
        print(f"| copy rate, read and written | {speed / 1e12:.2f} TB/s |")
        print(f"| floor: {products / 1e12:.2f} TFLOP of prompt and {new:.0f} steps | {self.floor:.2f} ms/image |")
        together = max(1, GROUP // self.tokens)
        apart = sum(
            2 * count * rows * inner * columns / matrix_rate(rows * together, inner, columns, 0.2)
            for (rows, inner, columns), count in counted.items()
        )
        print(f"| products of {together} prompts, each shape alone, warm | {1e3 * apart:.2f} ms/image |")

    # ---- what else is done ----

    def recipe(self) -> None:
        """Each batch opened, prepared and generated in turn."""
        batches = [self.files[start : start + 8] for start in range(0, 16, 8)]
        seconds = median_seconds(lambda: [self._generated(batch, prepare=True) for batch in batches], 1)
        self._print("Pillow, processor and generate, 8 at a time", 16 / seconds)

    def static(self) -> None:
        """One batch of 64, prepared before."""
        seconds = median_seconds(lambda: self._generated(self.files[:64], cache_implementation="static"), 1)
        self._print("generate with a static cache, 64 at a time", 64 / seconds)

    def _generated(self, files: list[Path], prepare: bool = False, **settings) -> None:
        inputs = [self._prepare(file) for file in files] if prepare else self.inputs[: len(files)]
        requests = [Request(index, one, 0) for index, one in enumerate(inputs)]
        batch = GenerateEngine(self.options, self.loaded)._batch(requests)
        longest = max(self.lengths[: len(files)])
        self.model.generate(**batch, do_sample=False, max_new_tokens=longest, min_new_tokens=longest, **settings)

    # ---- this engine ----

    def engine(self) -> None:
        """Prepared pictures to texts, then its parts one by one."""
        import caption.engine.check as check

        check.load = lambda options: self.loaded
        engine = load_fastest(self.options)
        print(f"| engine | {engine.describe()} |")
        locked = [_locked(inputs) for inputs in self.inputs]  # as a run's loaders hand them over
        requests = [
            Request(index, locked[index % len(locked)], index, length) for index, length in enumerate(self.lengths)
        ]
        caption(engine, requests[:128])
        (seconds, _), answers = caption(engine, requests)
        made = statistics.mean(answer.tokens for answer in answers.values())
        self._print(f"this engine alone, {engine.slots} slots, {made:.1f} tokens a caption", self.images / seconds)
        count = max(1, GROUP // self.tokens)
        with torch.inference_mode(), self._vision_clock() as vision:
            prefill = 1e3 * median_seconds(lambda: engine.prefilled(requests[:count])) / count
        self.parts |= {"vision": vision() / count, "text prefill": prefill - vision() / count}
        with torch.inference_mode():
            engine.admit([dataclasses.replace(one, max_new_tokens=MOST) for one in requests[: engine.free]])
            while engine.waiting:
                engine.step()
            slots = len(engine.held)
            engine.decoder.run(MEAN // 2)
            step = 1e3 * median_seconds(lambda: engine.decoder.run(8)) / 8
        self.parts["decode steps"] = step * made / slots
        print(f"| a step of {slots} texts of about {self.tokens + MEAN} tokens | {step:.2f} ms |")
        engine.reset()

    @contextlib.contextmanager
    def _vision_clock(self):
        """Gives a function that tells the milliseconds of the latest forward of the vision tower."""
        config = self.model.config.vision_config
        tower = next(module for module in self.model.modules() if getattr(module, "config", None) is config)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        hooks = [
            tower.register_forward_pre_hook(lambda *_: marks[0].record()),
            tower.register_forward_hook(lambda *_: marks[1].record()),
        ]
        yield lambda: marks[0].elapsed_time(marks[1])
        for hook in hooks:
            hook.remove()

    def run(self) -> None:
        """The whole program, from files to rows."""
        self.model.save_pretrained(self.model_folder)
        del self.model, self.loaded
        torch.cuda.empty_cache()
        out = self.work / "out"
        command = run_command(self.model_folder, self.work / "manifest.jsonl", out, self.files, self.lengths)
        os.sync()  # the model is on its disk before the run asks the disk for its own small files
        subprocess.run(command, cwd=ROOT, check=True)
        ran = json.loads((out / "run.json").read_text())["runs"][-1]["totals"]
        done = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
        assert [row["tokens"] for row in sorted(done, key=lambda row: row["image"])] == self.lengths
        self._print("python -m caption.run, files to rows", len(done) / ran["seconds"])
        wall = 1e3 * ran["seconds"] / len(done)
        print(f"| of the whole run, {ran['total_seconds']:.0f} s | {ran['idle']} |")
        laps = ran["until_first_caption"]
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in laps.items() if seconds >= 0.1)
        print(f"| until the first caption: {parts} | {sum(laps.values()):.1f} s |")
        self.parts["idle and the rest"] = wall - sum(self.parts.values())
        print(f"| a loader's process: open, prepare | {1e3 * self.decode:.1f}, {1e3 * self.preparing:.1f} ms/image |")
        for part, figure in self.parts.items():
            print(f"| of {wall:.2f} ms/image: {part} | {figure:.2f} ms |")

    def _print(self, way: str, rate: float) -> None:
        share = f", {100 * rate * self.floor / 1e3:.0f} % of the floor's rate" if hasattr(self, "floor") else ""
        print(f"| {way} | **{rate:.2f} images/s**{share} |", flush=True)


STAGES = ("ceilings", "recipe", "static", "engine", "run")


def large(name: str, size: str, images: int, stages: list[str]) -> None:
    """Print the table of a model shape."""
    width, height = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(name, width, height, images, Path(folder))
        import transformers

        print(f"| {name}, {size}: {bench.tokens} prompt tokens, captions of {statistics.mean(bench.lengths):.1f} | |")
        print("| --- | --- |")
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        print(f"| {torch.cuda.get_device_name()}, {os.cpu_count()} cores | {versions} |", flush=True)
        for stage in STAGES:
            if stage in stages:
                getattr(bench, stage)()


def small(images: int, device: str, threads: int, dtype: str) -> None:
    """Print the table of the embedded model."""
    options = EngineOptions(str(SHAPES), dtype, device, BATCHES[0], PROMPT, 64, threads=threads)
    preparer = load_preparer(options)
    scenes = (draw(SEED, index) for index in range(images))
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for _, data, _ in scenes]
    requests = [Request(key, preparer.prepare(picture), key) for key, picture in enumerate(pictures)]
    plain, taken = load(options), load_fastest(options)
    fast = dataclasses.replace(plain, model=taken.model)
    print(f"the check at load takes: {taken.name} {taken.fallback or ''}; {dtype}")
    print(
        "| side by side | images/s: generate | slots | ratio | per CPU s: generate | slots | ratio | captions equal |"
    )
    print("| ---: " * 8 + "|")
    unlike: dict[int, tuple[str, str]] = {}
    for batch in BATCHES if device == "cpu" else GPU_BATCHES:
        settings = dataclasses.replace(options, batch_size=batch)
        ways, best, texts = ((GenerateEngine, plain), (SlotEngine, fast)), {}, {}
        for _ in range(ROUNDS):
            for engine, loaded in ways:
                seconds, answers = caption(engine(settings, loaded), requests)
                best[engine] = min(seconds, best.get(engine, seconds))
                texts[engine] = [answers[key].text for key in range(images)]
        rates = [[images / best[engine][clock] for engine, _ in ways] for clock in (0, 1)]
        pairs = list(zip(*(texts[engine] for engine, _ in ways)))
        unlike |= {key: pair for key, pair in enumerate(pairs) if len(set(pair)) > 1}
        figures = [figure for one, other in rates for figure in (f"{one:.1f}", f"{other:.1f}", f"{other / one:.2f}")]
        equal = sum(one == other for one, other in pairs)
        print(f"| {batch} | {' | '.join(figures)} | {equal}/{images} |", flush=True)
    for key, (one, other) in unlike.items():
        print(f"picture {key}: {one!r}, {other!r}: {_margin(options, plain, requests[key], one, other)}")


def _margin(options: EngineOptions, loaded: Loaded, request: Request, one: str, other: str) -> str:
    """How near the two likeliest words lay, generated alone, where two captions part."""
    tokenizer = loaded.processor.tokenizer
    ids, others = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one, other))
    step = next((at for at, pair in enumerate(zip(ids, others)) if len(set(pair)) > 1), min(len(ids), len(others)))
    recorder = Recorder()
    GenerateEngine(options, loaded).generate([dataclasses.replace(request, max_new_tokens=step + 1)], recorder)
    first, second = recorder.logits[min(step, len(recorder.logits) - 1)].float()[0].topk(2).values.tolist()
    return f"they part at word {step}, where the two likeliest stand at {first:.4f} and {second:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--small", action="store_true", help="the embedded model")
    what.add_argument("--model", choices=random_model.NAMES, help="a model shape, on a GPU")
    parser.add_argument("--size", default="640x480", help="of the pictures of a model shape")
    parser.add_argument("--only", default=",".join(STAGES), help="rows of a model shape")
    parser.add_argument("--images", type=int, help="96 with --small, 768 with --model")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of --small")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "fp16", "bf16"], help="of --small")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch, of --small")
    given = parser.parse_args()
    if given.small:
        small(given.images or 96, given.device, given.threads, given.dtype)
    elif not torch.cuda.is_available():
        parser.error("--model needs a GPU; --small does not")
    else:
        large(given.model, given.size, given.images or 768, given.only.split(","))


if __name__ == "__main__":
    main()
