"""How fast a loader process turns JPEG files into a model's inputs, and where each millisecond goes.

    python scripts/bench_loaders.py [--models smolvlm-500m gemma3 …] [--size 640x480] [--images 40] [--loaders 1]
        [--device cuda]

Real image processors; tokenizers are made up, and there are no weights. Stages are measured one after the other in
this process, on one core: `decode` from the file to an upright RGB picture, `processor` with template and tokenizer,
`pack` to bytes, `share` into shared memory; `unpack` is the worker's side. `floats` is what decode and processor
would take with the last steps of the processor, which the device does; for an engine on CUDA, it cuts the tiles of some
processors, too. Then as many loader processes as asked for,
with nobody to use what they make: images a second in all.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import random_model
import transformers
from PIL import Image

from caption.engine import EngineOptions
from caption.engine.pixels import STEPS
from caption.engine.prepare import ProcessorPreparer
from caption.image import DecodeOptions, read_image
from caption.item import Item
from caption.loaderpool import ENVIRONMENT, LoaderPool
from caption.messages import LoaderSetup, Prepared
from caption.sharedmemory import Incoming, Outgoing, new_memory
from tests.engine import tiny

MALLOC = "MALLOC_MMAP_THRESHOLD_"
GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
SQUARE_336 = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
# Image processors as the cards of llava-1.5, llava-v1.6, idefics2-8b, InternVL3 and gemma-3 have them.
REAL = {
    "llava": ("CLIPImageProcessorPil", SQUARE_336),
    "llava_next": ("LlavaNextImageProcessorPil", {**SQUARE_336, "image_grid_pinpoints": GRIDS}),
    "idefics2": ("Idefics2ImageProcessorPil", {"size": {"longest_edge": 980, "shortest_edge": 378},
                                               "do_image_splitting": False}),
    "internvl": ("GotOcr2ImageProcessorPil", {"size": {"height": 448, "width": 448}, "max_patches": 12,
                                              "crop_to_patches": True}),
    "gemma3": ("Gemma3ImageProcessorPil", {"size": {"height": 896, "width": 896}}),
}  # fmt: skip
NAMES = [name for name in random_model.NAMES if name != "qwen2.5-vl-7b"] + list(REAL)  # 7B is prepared as 3B is
PROMPT = "Describe this image in detail."
MAX_PIXELS = 1310720


def write_processor(name: str, folder: Path) -> None:
    if name not in REAL:
        random_model.write(name, folder)
        return
    folder.mkdir()
    _, config, processor_class, settings, _, tokenizer, tokenizer.chat_template = tiny.FAMILIES[name]()
    kind, values = REAL[name]
    for part in (tokenizer, config, getattr(transformers, kind)(**values)):
        part.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": processor_class, **settings}))


def write_photos(folder: Path, size: tuple[int, int], count: int) -> list[str]:
    """JPEGs of coarse and fine detail, about as large as a camera's at quality 90."""
    noise, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = noise.integers(0, 256, (size[1] // 40 + 1, size[0] // 40 + 1, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        picture = (picture + noise.normal(0, 6, picture.shape)).clip(0, 255).astype(np.uint8)
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(picture).save(paths[-1], quality=90)
    return paths


def mean_ms(function, things: list) -> tuple[float, list]:
    function(things[0])
    begin = time.perf_counter()
    results = [function(thing) for thing in things]
    return (time.perf_counter() - begin) * 1000 / len(things), results


def stages(preparer: ProcessorPreparer, decode: DecodeOptions, paths: list[str]) -> tuple[dict[str, float], float]:
    """Milliseconds an image, and megabytes that are carried."""
    processor = preparer.prompter.processor.image_processor
    memory = new_memory()
    outgoing, incoming = Outgoing(memory), Incoming(memory)
    found = {}
    found["decode"], pictures = mean_ms(lambda path: read_image(path, decode)[0], paths)
    whole, _ = mean_ms(lambda picture: preparer.prepare(picture) and None, pictures)
    found["processor"] = whole
    if not preparer.plans:  # then it is told apart from the packing
        found["processor"], _ = mean_ms(lambda picture: preparer.prompter(picture, PROMPT) and None, pictures)
    found["pack"] = max(0.0, whole - found["processor"])
    inputs = preparer.prepare(pictures[0])

    def share(_) -> None:
        outgoing.free(incoming.freed())
        nonlocal seconds
        parcel = outgoing.pack(inputs)
        begin = time.perf_counter()
        incoming.unpack(parcel)
        seconds += time.perf_counter() - begin

    seconds = 0.0
    both, _ = mean_ms(share, paths)
    found["unpack"] = seconds * 1000 / (len(paths) + 1)
    found["share"] = both - found["unpack"]
    for step in STEPS if preparer.packed else ():
        setattr(processor, step, True)
    floats, _ = mean_ms(lambda picture: preparer.prompter(picture, PROMPT) and None, pictures)
    found["floats"] = floats + found["decode"]
    incoming.close()
    return found, sum(getattr(value, "raw", value).nbytes for value in inputs.values()) / 1e6


def pool_rate(options: EngineOptions, decode: DecodeOptions, paths: list[str], loaders: int) -> float:
    pool = LoaderPool(loaders, LoaderSetup(options, decode), 60.0)
    items = [Item(number, path, path, path, number) for number, path in enumerate(paths)]
    try:
        for item in items[: 4 * loaders]:  # until all are there
            pool.submit({(0, item.index): item})
        done = 0
        while done < 4 * loaders:
            done += len(pool.take(1))
        pool.submit({(1, item.index): item for item in items})
        begin, done = time.perf_counter(), 0
        while done < len(items):
            done += sum(isinstance(answer, Prepared) for answer in pool.take(1))
            if pool.failure:
                raise SystemExit(pool.failure)
        return done / (time.perf_counter() - begin)
    finally:
        pool.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--loaders", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the engine; none is needed here")
    given = parser.parse_args()
    size = tuple(map(int, given.size.split("x")))
    decode = DecodeOptions(MAX_PIXELS, 200_000_000)
    print(f"{given.size} JPEG; ms an image: | decode | processor | pack | share | = images/s of one core | unpack | "
          f"floats | MB | images/s of {given.loaders} loader(s) |\n" + "| --- " * 10 + "|")  # fmt: skip
    with tempfile.TemporaryDirectory() as root:
        paths = write_photos(Path(root), size, given.images)
        for name in given.models:
            folder = Path(root, name)
            write_processor(name, folder)
            options = EngineOptions(str(folder), "fp16", given.device, 8, PROMPT, 64, max_pixels=MAX_PIXELS)
            found, megabytes = stages(ProcessorPreparer(options), decode, paths)
            loader = [found[stage] for stage in ("decode", "processor", "pack", "share")]
            figures = [*loader, 1000 / sum(loader), found["unpack"], found["floats"], megabytes]
            figures.append(pool_rate(options, decode, paths, given.loaders))
            packed = "" if ProcessorPreparer(options).packed else " (floats)"
            print(f"| {name}{packed} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    if os.environ.get(MALLOC) != ENVIRONMENT[MALLOC]:  # glibc reads it when a process begins
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})
    main()
