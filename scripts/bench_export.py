"""How fast each format is exported: ``python scripts/bench_export.py [--rows N] [FORMAT …]``; of made-up rows.

``--choose`` measures a choice by score instead, into jsonl: by a condition, and of two prompts an image the best.
"""

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

PROMPTS = ("short", "long")
CHOICES = (
    ("--where", "score > 0.5"),
    ("--where", 'score > 0.5 and not flags and words > 20 and caption contains "dog"'),
    ("--best-by", "score"),
)
TEXT = "A brown dog with a red collar runs across a wet beach, its reflection visible in the sand. " * 4


def make_job(out: Path, count: int) -> None:
    """Rows of a thousand images a folder; there are no pictures."""
    RunFile(out, {"input": str(out / "in")}, {}).note()
    with checkpoint.open(out, {}) as record:
        for begin in range(0, count, 1000):
            record.append(CAPTIONS, [(id, _row(id, number)) for number, id in _ids(begin)])
    with (out / "scores.jsonl").open("wb") as file:
        for begin in range(0, count, 1000):
            for number, id in _ids(begin):
                row = {"id": id, "score": number * 7919 % 1000 / 1000, "parts": {"clip": 0.3}, "scorer": "made-up"}
                file.write(orjson.dumps(row) + b"\n")


def _ids(begin: int) -> list[tuple[int, str]]:
    return [
        (number, f"{number // 2000:05}/{number // 2:08}.jpg#{PROMPTS[number % 2]}")
        for number in range(begin, begin + 1000)
    ]


def _row(id: str, number: int) -> bytes:
    row = {"id": id, "image": id.partition("#")[0], "caption": TEXT, "finish_reason": "stop", "tokens": 80}
    row |= {"width": 640, "height": 480, "seed": 0, "seconds": 1.0, "attempts": 1, "flags": []}
    return orjson.dumps(row | {"prompt_name": PROMPTS[number % 2]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", default=["jsonl", "csv", "txt", "json", "parquet"])
    parser.add_argument("--rows", type=int, default=100_000, help="rounded up to thousands")
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_job(Path(folder), given.rows)
        for words in [("jsonl", *choice) for choice in CHOICES] if given.choose else zip(given.formats):
            begin, busy = time.perf_counter(), time.process_time()
            export([folder, "--to", *words])
            rate = given.rows / (time.perf_counter() - begin)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            busy = time.process_time() - busy
            print(f"{' '.join(words):<8} {rate:>9,.0f} rows/s ({busy:.0f} s of a core)   peak so far {peak:,} MiB")


if __name__ == "__main__":
    main()
