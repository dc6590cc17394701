"""How soon a run begins to caption, and how fast each kind of input is read.

    python scripts/bench_sources.py [--count 10000000] [--folder FOLDER]

Writes a Parquet manifest of COUNT rows (path, id, label), starts a run with the model that computes nothing, and takes
the seconds to its first row; the run is then stopped. Then looks into the headers of 10,000 pictures, as the schedule
does to learn what they cost. Then reads at most a million rows of each kind of manifest to their end and prints rows a
second and the largest memory. Needs pyarrow. Prints a table.
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
PICTURES = 10_000
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


def seconds_for_headers(folder: Path) -> float:
    """JPEG, PNG and WebP in turn, of several sizes; their files are in memory, as they were just written."""
    from PIL import Image

    from caption.cost import Cost
    from caption.settings import Settings
    from caption.sources import open_source

    folder.mkdir()
    made = []
    for number in range(30):
        path = folder / f"{number}.{('jpg', 'png', 'webp')[number % 3]}"
        Image.effect_noise((64 + 32 * number, 480), 50).convert("RGB").save(path)
        made.append((path.suffix, path.read_bytes()))
    for number in range(len(made), PICTURES):
        ending, content = made[number % len(made)]
        (folder / f"{number}{ending}").write_bytes(content)
    items = list(open_source(folder, 0, folder / "out").items())
    cost = Cost(Settings(input="", output=""))
    begin = time.perf_counter()
    for start in range(0, len(items), 4096):
        cost.estimated(items[start : start + 4096])
    return time.perf_counter() - begin


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
        print(f"headers of {PICTURES:,} pictures: {seconds_for_headers(Path(scratch, 'pictures')):.2f} s")
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
