"""Captions a folder of hostile pictures, and checks that each ends in exactly one row and that memory stays bounded.

    python scripts/stress_images.py FOLDER [--model shapes]

A public set is the test pictures of Pillow (`pip download --no-binary :all: --no-deps pillow`, then Tests/images):
about a thousand files, many made to break decoders. In a copy, files with other endings get .png added, and hostile
names, pipes, sockets, unreadable files and a picture of a billion pixels are put beside them. Prints rows by error, the
largest memory of all processes together, and seconds; status 1 if anything does not hold.
"""

import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from caption.image import ENDINGS  # noqa: E402 (the path comes first)
from caption.sources.folder import as_id  # noqa: E402

LONGEST = 1800.0  # seconds until a run is taken to hang


def name_as_pictures(folder: Path) -> None:
    """Adds .png to the names of all files that would be passed over: their content is what they are judged by."""
    for path, _, names in os.walk(folder):
        for name in names:
            if not name.lower().endswith(ENDINGS):
                os.rename(os.path.join(path, name), os.path.join(path, name + ".png"))


def add_hostile(folder: Path) -> None:
    """What a set of test pictures lacks: names, files that are none, and sizes."""
    from PIL import Image

    small = Image.new("RGB", (40, 30), "red")
    for name in (b"two\nlines.png", b"q'u\"o te.png", b"caf\xe9.png", b"%C3.png", b" .png", b"Twin.png", b"twin.PNG"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            small.save(file, "PNG")
    Image.new("RGB", (1, 1)).save(folder / "one.png")
    Image.new("RGB", (1, 20_000)).save(folder / "tall.png")
    small.save(folder / "wrong-ending.jpg", "PNG")
    (folder / "zero.jpg").touch()
    (folder / "text.webp").write_text("no picture\n")
    (folder / "half.png").write_bytes((folder / "twin.PNG").read_bytes()[:50])
    (folder / "bomb.png").write_bytes(bomb(32_000, 32_000))
    os.mkfifo(folder / "pipe.jpg")
    socket.socket(socket.AF_UNIX).bind(str(folder / "socket.png"))
    (folder / "nowhere.gif").symlink_to(folder / "not there")
    (folder / "device.bmp").symlink_to("/dev/zero")
    (folder / "secret.png").write_bytes((folder / "twin.PNG").read_bytes())
    (folder / "secret.png").chmod(0)


def bomb(width: int, height: int) -> bytes:
    """A small PNG of very many black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def memory_of(process: subprocess.Popen) -> int:
    total = 0
    try:
        parent = psutil.Process(process.pid)
        for one in (parent, *parent.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:
        pass
    return total


def pictures_below(folder: Path) -> set[str]:
    found = set()
    for path, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(ENDINGS):
                found.add(as_id(os.path.relpath(os.path.join(path, name), folder)))
    return found


def caption(folder: Path, out: Path, model: str) -> tuple[int, float, int]:
    """Exit code, seconds and the largest memory in bytes."""
    command = [sys.executable, "-m", "caption.run", folder, "--output", out, "--model", model, "--max-new-tokens", "8"]
    begin, largest = time.monotonic(), 0
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        largest = max(largest, memory_of(process))
        if time.monotonic() - begin > LONGEST:
            process.terminate()
            sys.exit(f"{model}: it hangs")
        time.sleep(0.25)
    return process.returncode, time.monotonic() - begin, largest


def check(folder: Path, out: Path) -> tuple[Counter, list[str]]:
    """Rows by error ("captioned" where there is none), and what does not hold."""
    kinds, ids, problems = Counter(), Counter(), []
    for name in ("captions.jsonl", "failed.jsonl"):
        for line in (out / name).read_text().splitlines() if (out / name).exists() else []:
            row = json.loads(line)
            ids[row["id"]] += 1
            kinds[row.get("error", "captioned")] += 1
    wanted = pictures_below(folder)
    problems += [f"{len(wanted - ids.keys())} pictures have no row: {sorted(wanted - ids.keys())[:3]}"]
    problems += [f"{len(ids.keys() - wanted)} rows have no picture: {sorted(ids.keys() - wanted)[:3]}"]
    problems += [f"{sum(count > 1 for count in ids.values())} ids stand twice"]
    return kinds, [problem for problem in problems if not problem.startswith("0 ")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="shapes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch, "in"), Path(scratch, "out")
        subprocess.run(["cp", "-r", options.folder, folder], check=True)
        name_as_pictures(folder)
        add_hostile(folder)
        code, seconds, largest = caption(folder, out, options.model)
        kinds, problems = check(folder, out)
    rows, memory = sum(kinds.values()), largest / 2**30
    print(f"{options.model}: exit code {code}, {rows:,} rows in {seconds:.0f} s, {memory:.2f} GiB")
    print("  " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    for problem in problems + ([f"the exit code is {code}"] if code else []):
        print(f"  WRONG: {problem}")
    sys.exit(1 if problems or code else 0)


if __name__ == "__main__":
    main()
