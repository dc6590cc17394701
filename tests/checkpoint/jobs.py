"""Small rows, and what must hold of a record whatever happened to it."""

import os
from collections import Counter
from pathlib import Path

import orjson

import checkpoint

# Thousands of small files: in memory where there is such a folder. What a disk would lose is the fake disk's matter.
TEMP = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
FINGERPRINT = {"model": "shapes", "seed": 0}
CAPTIONS, FAILED = checkpoint.FILES


def row(id: str, text: str = "a red circle left of a blue square") -> tuple[str, bytes]:
    return id, orjson.dumps({"id": id, "caption": f"{text}, {id}"})


def rows(*ids: str, text: str = "a red circle left of a blue square") -> list[tuple[str, bytes]]:
    return [row(id, text) for id in ids]


def opened(out: Path) -> checkpoint.Record:
    return checkpoint.open(out, FINGERPRINT)


def abandon(record: checkpoint.Record) -> None:
    """What the kernel does with the descriptors of a process that was killed."""
    lock = record._paths.lock
    before = lock.read_bytes() if lock.exists() else b""
    record._open.close()
    if lock.exists():
        lock.write_bytes(before)


def content(out: Path) -> dict[str, dict[str, bytes]]:
    """{row file: {id: line}}; fails if a file holds a torn line, or an id stands twice anywhere."""
    found = {}
    for name in checkpoint.FILES:
        lines = (out / name).read_bytes().splitlines(keepends=True)
        assert all(line.endswith(b"\n") for line in lines), f"{name} ends in a torn line"
        found[name] = {orjson.loads(line)["id"]: line[:-1] for line in lines}
        assert len(found[name]) == len(lines), f"an id stands twice in {name}"
    twice = [id for id, count in Counter(id for file in found.values() for id in file).items() if count > 1]
    assert not twice, f"in both files: {twice}"
    return found


def reopened(out: Path) -> dict[str, dict[str, bytes]]:
    """The rows after opening and closing the record, which must find nothing wrong with itself."""
    with opened(out) as record:
        found = content(out)
        assert record.counts == {name: len(file) for name, file in found.items()}
        assert all(record.done([id for file in found.values() for id in file]))
        assert record.check() == []
    assert checkpoint.check(out) == []
    return found
