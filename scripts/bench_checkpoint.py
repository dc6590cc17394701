"""What the durable record costs: appending, committing, opening and filtering, at any number of rows.

    python scripts/bench_checkpoint.py [--count 10000000] [--folder FOLDER]

Writes COUNT rows of about 200 bytes in commits of 1,000, then opens the record in a fresh process and asks it, in
windows of 65,536 as a run does, for each id of a list of COUNT. Last, a whole run with workers that do nothing.
Prints a table.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).parents[1]))

import checkpoint

COMMIT = 1000  # rows
RUN_IMAGES = 200_000  # of the whole run, at most
WINDOW = 65_536  # ids asked for at once
FINGERPRINT = {"model": "bench"}
CAPTION = "A red circle lies left of a small blue square on a grey ground; a green triangle stands above both of them."


def ids(count: int, at_once: int) -> Iterator[list[str]]:
    for start in range(0, count, at_once):
        numbers = range(start, min(start + at_once, count))
        yield [f"train/part-{number // 10_000:05d}/image-{number:09d}.jpg" for number in numbers]


def fill(out: Path, count: int) -> dict[str, float]:
    """Seconds of all appends, of the commits of the first and of the last tenth, and of all commits together."""
    appends, commits = 0.0, []
    with checkpoint.open(out, FINGERPRINT) as record:
        for wanted in ids(count, COMMIT):
            rows = [(id, orjson.dumps({"id": id, "image": id, "caption": CAPTION})) for id in wanted]
            start = time.perf_counter()
            record.append("captions.jsonl", rows)
            appended = time.perf_counter()
            record.commit()
            appends += appended - start
            commits.append(time.perf_counter() - appended)
    tenth = max(1, len(commits) // 10)
    return {
        "append": appends,
        "first": statistics.median(commits[:tenth]),
        "last": statistics.median(commits[-tenth:]),
        "commit": sum(commits),
    }


def resume(out: Path, count: int) -> dict[str, float]:
    """Seconds of opening and of filtering, peak memory in bytes before and after."""
    before = peak_memory()
    start = time.perf_counter()
    with checkpoint.open(out, FINGERPRINT) as record:
        opened = time.perf_counter()
        asking, done = 0.0, 0
        for wanted in ids(count, WINDOW):
            begin = time.perf_counter()
            done += int(np.count_nonzero(record.done(wanted)))
            asking += time.perf_counter() - begin
    assert done == count
    return {"open": opened - start, "filter": asking, "before": before, "peak": peak_memory()}


def whole_run(folder: Path, count: int) -> float:
    """Images/s of a run whose workers do nothing: shards, channels, coordinator and record, first to last row."""
    for start in range(0, count, 1000):
        part = folder / "in" / f"{start:09d}"
        part.mkdir(parents=True)
        for number in range(start, min(start + 1000, count)):
            (part / f"{number:09d}.jpg").touch()
    command = [sys.executable, "-m", "caption.run", folder / "in", "--output", folder / "run", "--model", "null"]
    options = ["--workers", "8", "--batch-size", "32"]
    subprocess.run([*command, *options], check=True, capture_output=True, cwd=Path(__file__).parents[1])
    totals = json.loads((folder / "run/run.json").read_text())["runs"][0]["totals"]
    assert totals["captioned"] == count
    return count / totals["seconds"]


def peak_memory() -> int:
    """Bytes this process has held at most. getrusage would count its parent's too: Linux keeps them over exec."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000_000, help="rows (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the record is made and removed (default: a temporary one)")
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)  # the fresh process that opens and filters
    arguments = parser.parse_args()
    count = arguments.count
    if arguments.resume:
        print(json.dumps(resume(arguments.resume, count)))
        return
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        filled = fill(folder / "out", count)
        size = (folder / "out/captions.jsonl").stat().st_size
        command = [sys.executable, __file__, "--count", str(count), "--resume", str(folder / "out")]
        resumed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        images = min(count, RUN_IMAGES)
        rate = whole_run(folder, images)
    finally:
        shutil.rmtree(folder)
    tenth = max(1, count // 10)
    print(f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, orjson {orjson.__version__}")
    print(f"python scripts/bench_checkpoint.py --count {count}\n")
    for name, value in [
        (f"rows, {size / 1e9:.2f} GB", f"{count:,}"),
        ("append, rows/s", f"{count / filled['append']:,.0f}"),
        ("append and commit, rows/s", f"{count / (filled['append'] + filled['commit']):,.0f}"),
        (f"commit of {COMMIT:,}, median of the first {tenth:,} rows", f"{filled['first'] * 1e3:.2f} ms"),
        (f"commit of {COMMIT:,}, median of the last {tenth:,} rows", f"{filled['last'] * 1e3:.2f} ms"),
        (f"whole run of {images:,}, 8 workers that do nothing", f"{rate:,.0f}/s"),
        ("open", f"{resumed['open']:.2f} s"),
        (f"filter a list of {count:,}", f"{resumed['filter']:.2f} s"),
        ("open and filter", f"{resumed['open'] + resumed['filter']:.2f} s"),
        ("peak memory, whole process", f"{resumed['peak'] / 1e6:,.0f} MB"),
        ("peak memory, above the imports", f"{(resumed['peak'] - resumed['before']) / 1e6:,.0f} MB"),
    ]:
        print(f"{name:<50} {value:>14}")


if __name__ == "__main__":
    main()
