"""How much faster several workers are than one, how fast all around the engine is, and where the rest of the time goes.

    python scripts/bench_workers.py --gpus 4 [--model qwen2.5-vl-7b] [--images 7000] [--only total,empty]
    python scripts/bench_workers.py --small [--only scaling,start,empty]

scaling: python -m caption.run on N GPUs against one of them, from JPEG files to rows on disk: the same work for each
GPU (--images on one, N times as many on N), then the same total (N times as many on one). GPUs of one kind differ by a
hundredth or two, so each of the N does the work of one, by itself and while the others do the same; their mean rate
counts. The model has random weights at the real one's shape, in fp16, and each caption a length of its own (see
workload.py). All runs have as many loaders a GPU as N GPUs leave room for. images/s count from when the first
worker began to the last caption. What a run's length does not change, some seconds, is for N a larger share of the same
total: hence so many images, 15 minutes of them on 4 H200s. total: of these, the same total only.
--small: workers whose engine only waits, 10 ms a picture, so that the ratio is that of everything around the engine.

start: the embedded model on drawn scenes, for the parts of the time until the first caption; the other runs print
theirs too.

empty: 8 workers with an engine that does nothing, on two cores: what shards, queues and the record bear. CPU is of all
processes, from the command to its end. The list names pictures that are not there: that engine opens none.

Each run prints how long each worker's device had nothing to do, and when. What was measured: bench_workers.md.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from caption.devices import visible_gpus

ROOT = Path(__file__).parents[1]
SIZE = (640, 480)
LIMIT = 1200  # seconds that one run may take
WAIT = "null:10"  # the engine that waits
CORES = 2
PARTS = ("scaling", "start", "empty")  # all that run if none are named


def run(command: list[str], out: Path, cores: int | None = None) -> tuple[dict, float]:
    """Run the command. Return its totals, as run.json has them, and the CPU seconds of all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pin = (lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])) if cores else None
    done = subprocess.run(command, cwd=ROOT, timeout=LIMIT, capture_output=True, text=True, preexec_fn=pin)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    totals = json.loads((out / "run.json").read_text())["runs"][-1]["totals"]
    return totals, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rate(totals: dict) -> float:
    return totals["captioned"] / totals["seconds"]


def show(what: str, totals: dict) -> None:
    """A row of the run, and rows of where its time went besides."""
    parts = totals["until_first_caption"]
    print(f"| {what} | {totals['captioned']} images in {totals['seconds']:.2f} s: **{rate(totals):.1f} images/s** |")
    shown = ", ".join(f"{part} {seconds:.2f}" for part, seconds in parts.items() if seconds >= 0.01)
    print(f"| until its first caption, {sum(parts.values()):.2f} s | {shown} |")
    for worker, idle in totals["idle"].items():
        seconds = {part: share * totals["total_seconds"] for part, share in idle.items()}
        shown = ", ".join(f"{part} {count:.2f}" for part, count in seconds.items())
        print(f"| {worker}, {totals['total_seconds']:.1f} s from input to end | {shown} |", flush=True)


def compare(ones: list[dict], several: dict, same: str) -> None:
    """ones: of the runs on one, each."""
    mean, count = statistics.mean(map(rate, ones)), len(several["idle"])
    times = rate(several) / mean
    print(f"| {count} against 1, {mean:.1f} images/s, the same {same} | **{times:.2f} times** |", flush=True)


def scaling(count: int, name: str, images: int, folder: Path, work_too: bool) -> None:
    """On GPUs."""
    from workload import draw_photos, lengths, run_command

    model = folder / "model"
    write = [sys.executable, str(ROOT / "scripts" / "random_model.py"), name, str(model)]
    subprocess.run(write, check=True, timeout=LIMIT)  # in a process that leaves the GPU
    generation = json.loads((model / "generation_config.json").read_text())
    generation.pop("eos_token_id", None)  # random words must not end a text before its length
    (model / "generation_config.json").write_text(json.dumps(generation))
    wanted = lengths(images)
    files = draw_photos(folder / "pictures", images * count, SIZE)
    loaders = max(1, min(24, len(os.sched_getaffinity(0)) // count - 2))
    os.sync()  # the model is on its disk before the run asks the disk for its own small files

    def timed(gpus: Sequence[int], work: int) -> dict:
        label = f"{work}-on-{','.join(map(str, gpus))}"
        out = folder / label
        command = run_command(model, folder / f"{label}.jsonl", out, files[: images * work], wanted * work)
        command += ["--gpus", ",".join(map(str, gpus)), "--loaders", str(loaders)]
        totals, _ = run(command, out)
        rows = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
        assert [row["tokens"] for row in sorted(rows, key=lambda row: row["image"])] == wanted * work
        return totals

    def each_alone(work: int) -> list[dict]:
        with ThreadPoolExecutor(count) as threads:
            found = list(threads.map(lambda gpu: timed([gpu], work), range(count)))
        for gpu, totals in enumerate(found):
            show(f"GPU {gpu}, {loaders} loaders", totals)
        return found

    several = timed(range(count), count)
    show(f"{count} GPUs, {loaders} loaders each", several)
    if work_too:
        compare(each_alone(1), several, "work each")
    compare(each_alone(count), several, "total")


def small_scaling(count: int, images: int, folder: Path) -> None:
    listed = write_list(folder, images * count)

    def timed(label: str, workers: int, limit: int) -> dict:
        out = folder / label
        totals, _ = run([*command_for(listed, out, WAIT), "--workers", str(workers), "--limit", str(limit)], out)
        show(f"engine that waits, {workers} worker{'s' if workers > 1 else ''}", totals)
        return totals

    several = timed("several", count, images * count)
    compare([timed("one", 1, images)], several, "work each")
    compare([timed("total", 1, images * count)], several, "total")


def start(folder: Path) -> None:
    scenes = folder / "scenes"
    draw = [sys.executable, str(ROOT / "scripts" / "draw_shapes.py"), str(scenes), "--count", "64", "--seed", "5"]
    subprocess.run(draw, check=True, capture_output=True)
    (scenes / "truth.jsonl").unlink()
    for time in ("first", "second"):  # what the check found is kept for the second
        totals, _ = run(command_for(scenes, folder / time, "shapes"), folder / time)
        show(f"embedded model, {time} run", totals)


def empty(images: int, folder: Path) -> None:
    out = folder / "empty"
    command = [*command_for(write_list(folder, images), out, "null"), "--workers", "8", "--batch-size", "64"]
    totals, cpu = run(command, out, CORES)
    show(f"engine that does nothing, 8 workers, {CORES} cores, load {os.getloadavg()[0]:.1f}", totals)
    print(f"| CPU of all its processes | {1e6 * cpu / images:.1f} microseconds an image |", flush=True)


def write_list(folder: Path, count: int) -> Path:
    path = folder / f"{count}.txt"
    path.write_text("".join(f"pictures/{index // 1000:05d}/{index:08d}.jpg\n" for index in range(count)))
    return path


def command_for(source: Path, out: Path, model: str) -> list[str]:
    return [sys.executable, "-m", "caption.run", str(source), "--output", str(out), "--model", model, "--device", "cpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--gpus", type=int, help="how many against one")
    what.add_argument("--small", action="store_true", help="without a GPU")
    parser.add_argument("--model", default="qwen2.5-vl-7b", help="a shape of random_model.py")
    parser.add_argument("--images", type=int, help="for each worker of scaling: 7000, with --small 500")
    parser.add_argument("--empty-images", type=int, default=400_000, help="of empty")
    parser.add_argument("--only", default=",".join(PARTS), help="some of scaling, total, start, empty")
    given = parser.parse_args()
    gpus, parts = visible_gpus(), given.only.split(",")
    if given.gpus and given.gpus > len(gpus):
        parser.error(f"there are {len(gpus)} GPUs")
    hardware = f"{len(gpus)} x {gpus[0].name}, " if gpus else ""
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("torch", "transformers"))
    versions += f", Python {platform.python_version()}"
    print(f"| {hardware}{os.cpu_count()} cores | {versions} |\n| --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        if given.gpus and {"scaling", "total"} & set(parts):
            scaling(given.gpus, given.model, given.images or 7000, folder, work_too="scaling" in parts)
        elif "scaling" in parts:
            small_scaling(4, given.images or 500, folder)
        if "start" in parts:
            start(folder)
        if "empty" in parts:
            empty(given.empty_images, folder)


if __name__ == "__main__":
    main()
