"""How fast each format is exported: ``python scripts/bench_export.py [--rows N] [FORMAT …]``; of made-up rows."""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import checkpoint
from caption.export import main as export
from caption.outputs.rows import CAPTIONS
from caption.runfile import RunFile

TEXT = "A brown dog with a red collar runs across a wet beach, its reflection visible in the sand. " * 4


def make_job(out: Path, count: int) -> None:
    """Rows of a thousand images a folder; there are no pictures."""
    RunFile(out, {"input": str(out / "in")}, {}).note()
    with checkpoint.open(out, {}) as record:
        for begin in range(0, count, 1000):
            ids = [f"{begin // 1000:05}/{number:08}.jpg" for number in range(begin, begin + 1000)]
            record.append(CAPTIONS, [(id, _row(id)) for id in ids])


def _row(id: str) -> bytes:
    row = {"id": id, "image": id, "caption": TEXT, "finish_reason": "stop", "tokens": 80, "width": 640, "height": 480}
    return orjson.dumps(row | {"seed": 0, "seconds": 1.0, "attempts": 1, "flags": []})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", default=["jsonl", "csv", "txt", "json", "parquet"])
    parser.add_argument("--rows", type=int, default=100_000, help="rounded up to thousands")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_job(Path(folder), given.rows)
        for name in given.formats:
            begin = time.perf_counter()
            export([folder, "--to", name])
            rate = given.rows / (time.perf_counter() - begin)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{name:<8} {rate:>9,.0f} rows/s   peak so far {peak:,} MiB")


if __name__ == "__main__":
    main()
