"""What ``python -m caption.merge`` costs: time and memory for any number of rows.

    python scripts/bench_merge.py [--count 1000000] [--shards 8] [--folder FOLDER]

Writes the folders of the shards, with COUNT rows in all, merges them, and checks the whole. Prints a table.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).parents[1]))

import checkpoint
from caption.item import Item
from caption.messages import Result
from caption.outputs.rows import CAPTIONS, caption_row
from caption.shard import Shard, image_of
from scripts.bench_checkpoint import processor

ROOT = Path(__file__).parents[1]
CAPTION = "A red circle lies left of a small blue square on a grey ground; a green triangle stands above both of them."
BLOCK = 65_536


def write(folder: Path, count: int, of: int) -> int:
    """Bytes of all rows, which stand in the folders of their shards as runs leave them."""
    shards = [Shard(number, of) for number in range(of)]
    records = [checkpoint.open(folder / one.folder, {"model": "bench", "shard": str(one)}) for one in shards]
    for start in range(0, count, BLOCK):
        rows = [[] for _ in shards]
        for number in range(start, min(start + BLOCK, count)):
            id = f"train/part-{number // 10_000:05d}/image-{number:09d}.jpg"
            place = next(one.number for one in shards if one.holds(image_of(id)))
            item = Item(number, id, id, id, number)
            rows[place].append((id, caption_row(item, Result((0, 0), CAPTION, None, "stop", 24, 640, 480, 9.5, ()))))
        for record, new in zip(records, rows):
            record.append(CAPTIONS, new)
    for one, record in zip(shards, records):
        record.close()
        runs = orjson.dumps({"fingerprint": {}, "runs": [{"exit_code": 0}]})
        (folder / one.folder / "run.json").write_bytes(runs)
    return sum((folder / one.folder / CAPTIONS).stat().st_size for one in shards)


def merge(folder: Path) -> tuple[float, int]:
    """Seconds and peak bytes of a process that merges."""
    code = (
        "import sys; from caption.merge import main; from scripts.bench_checkpoint import peak_memory; "
        "assert main(sys.argv[1:]) == 0; print(peak_memory())"
    )
    words = [sys.executable, "-c", code, str(folder / "shards"), "--output", str(folder / "all")]
    begin = time.perf_counter()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return time.perf_counter() - begin, int(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="rows (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=8, help="folders (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where all is made and removed (default: a temporary one)")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        size = write(folder / "shards", given.count, given.shards)
        seconds, peak = merge(folder)
        again, _ = merge(folder)
        checked = time.perf_counter()
        assert checkpoint.check(folder / "all") == []
        checked = time.perf_counter() - checked
        assert checkpoint.read(folder / "all").counts[CAPTIONS] == given.count
    finally:
        shutil.rmtree(folder)
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, orjson {orjson.__version__}")
    print(f"python scripts/bench_merge.py --count {given.count} --shards {given.shards}\n")
    for name, value in [
        (f"rows of {size / given.count:.0f} bytes, {size / 1e6:,.0f} MB", f"{given.count:,}"),
        ("merge", f"{seconds:.1f} s"),
        ("rows/s", f"{given.count / seconds:,.0f}"),
        ("peak memory of its process", f"{peak / 1e6:,.0f} MB"),
        ("the same command again, nothing to add", f"{again:.1f} s"),
        ("a check of the whole", f"{checked:.1f} s"),
    ]:
        print(f"{name:<50} {value:>14}")


if __name__ == "__main__":
    main()
