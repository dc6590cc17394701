"""How soon a run begins to caption, and how fast each kind of input is read.

    python scripts/bench_sources.py [--count 10000000] [--folder FOLDER]

Writes a Parquet manifest of COUNT rows (path, id, label), starts a run with the model that computes nothing, and takes
the seconds to its first row; the run is then stopped. Then reads at most a million rows of each kind of manifest to
their end and prints rows a second and the largest memory. Needs pyarrow. Prints a table.
"""

import argparse
import csv
import json
import multiprocessing
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

AT_ONCE = 1_000_000
KINDS = ("list.txt", "rows.jsonl", "rows.csv", "rows.parquet", "shard.tar")


def row(number: int) -> dict:
    path = f"part-{number // 10_000:05}/{number:09}.jpg"
    return {"image": path, "id": f"id-{number}", "label": f"class {number % 97}"}


def write_parquet(path: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    writer = None
    for start in range(0, count, AT_ONCE):
        table = pa.Table.from_pylist([row(number) for number in range(start, min(start + AT_ONCE, count))])
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def write(path: Path, count: int) -> None:
    if path.suffix == ".parquet":
        write_parquet(path, count)
    elif path.suffix == ".tar":
        with tarfile.open(path, "w") as archive:
            for number in range(count):
                archive.addfile(tarfile.TarInfo(f"{number:09}.jpg"))
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, row(0)) if path.suffix == ".csv" else None
            if table:
                table.writeheader()
            for number in range(count):
                one = row(number)
                if table:
                    table.writerow(one)
                else:
                    file.write((json.dumps(one) if path.suffix == ".jsonl" else one["image"]) + "\n")


def seconds_to_first_row(manifest: Path, out: Path) -> float:
    command = [sys.executable, "-m", "caption.run", manifest, "--output", out, "--model", "null"]
    begin = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = out / "captions.jsonl"
    while not (rows.exists() and rows.stat().st_size):
        if process.poll() is not None:
            sys.exit("the run ended without a row")
        time.sleep(0.02)
    seconds = time.monotonic() - begin
    process.send_signal(signal.SIGTERM)
    process.wait()
    return seconds


def read(path: Path, answer) -> None:
    """In a process of its own, so that its memory is that of the reading."""
    from caption.sources import open_source

    begin = time.perf_counter()
    count = sum(1 for _ in open_source(path, 0, path.parent / "out").items())
    seconds = time.perf_counter() - begin
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    answer.put((count, seconds, int(peak.split()[1]) / 1024))  # getrusage would tell the parent's, if that is larger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        manifest = Path(scratch, "all.parquet")
        write_parquet(manifest, options.count)
        seconds = seconds_to_first_row(manifest, Path(scratch, "out"))
        print(f"{platform.machine()}, Python {platform.python_version()}")
        print(f"Parquet of {options.count:,} rows: first caption after {seconds:.1f} s")
        manifest.unlink()
        print("| kind | rows | rows/s | MiB |\n| --- | --- | --- | --- |")
        for name in KINDS:
            path = Path(scratch, name)
            write(path, min(options.count, AT_ONCE))
            answer = processes.Queue()
            reader = processes.Process(target=read, args=(path, answer))
            reader.start()
            count, seconds, memory = answer.get()
            reader.join()
            print(f"| {path.suffix[1:]} | {count:,} | {count / seconds:,.0f} | {memory:,.0f} |")
            path.unlink()


if __name__ == "__main__":
    main()
