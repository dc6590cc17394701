"""Measure what several workers read from disk when they load the same model, one after the other as in a run.

    python scripts/bench_weights.py MODEL_FOLDER [--workers 3] [--dtype fp32]

The folder's weights are put out of the page cache first; then each load happens in a process of its own, on the CPU.
Linux only: the figures are the kernel's, from /proc/self/io.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def forget(folder: Path) -> int:
    """Puts the weights out of the page cache; returns their size in bytes."""
    size = 0
    for path in folder.glob("*.safetensors"):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        size += path.stat().st_size
    return size


def load(folder: str, dtype: str) -> None:
    """In a process of its own: loads the model, touches all of it, and says what that took."""
    sys.path.insert(0, str(ROOT))
    from caption.engine import EngineOptions
    from caption.engine.library import import_all
    from caption.engine.model import load_model

    import_all()
    before, begin = read_bytes(), time.monotonic()
    model = load_model(EngineOptions(folder, dtype, "cpu", 1, "", 1))
    for parameter in model.parameters():
        parameter.sum()
    print(f"{(read_bytes() - before) / 1e6:,.0f} MB from disk, {time.monotonic() - begin:.1f} s")


def read_bytes() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["read_bytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--dtype", choices=("fp16", "bf16", "fp32"), default="fp32")
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(str(options.folder), options.dtype)
        return
    print(f"{forget(options.folder) / 1e6:,.0f} MB of weights")
    for number in range(1, options.workers + 1):
        command = [sys.executable, __file__, str(options.folder), "--dtype", options.dtype, "--load"]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"worker {number}: {answer.splitlines()[-1]}")


if __name__ == "__main__":
    main()
