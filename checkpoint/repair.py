"""Mending a damaged record: whole rows stay, damaged ones go, the index is made anew from what stays."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from . import disk, ids, index, rewrite, rows
from . import state as states
from .check import problems
from .errors import BLOCK, Damaged, full
from .ids import IdSet
from .lock import Lock
from .paths import FILES, FOLDER, Paths
from .rewrite import Writer
from .state import Extent, Intent, State

NOTHING = bytes(index.RECORD.itemsize)  # stands for the record of a line that is no row


def repair(out: Path, files: Sequence[str] = FILES, folder: str = FOLDER) -> list[str]:
    """Mends what `check` finds in `out`; what was done in plain words, nothing if there was nothing to do.

    First copies row files and record to `before-repair-TIME` in the record's folder. Then drops damaged rows and second
    rows of an id, so that these are done again, and makes index and `checkpoint.json` anew. Damaged is what is not a
    JSON object with an id and, in a file whose checksum is wrong, what the index does not confirm. If `checkpoint.json`
    is lost, so is the fingerprint: the next run stores its own.
    files: the row files, should `checkpoint.json` be lost.

    Raises `Busy`, `Full` (it needs twice the size of the row files), OSError, `Mismatch` for an unknown format.
    """
    paths = Paths(out, folder)
    with full(BLOCK, out):
        disk.make_folders(paths.folder)
        held = Lock(paths.lock)
        try:
            return list(_repair(paths, files))
        finally:
            held.release()


def _repair(paths: Paths, files: Sequence[str]) -> Iterator[str]:
    try:
        state = states.load(paths.state)
    except Damaged:
        state = None
    if state and state.intent:
        state = rewrite.finish(paths, state)
        yield "completed an interrupted withdrawal"
    if not problems(paths, running=False):
        return
    lost = state is None
    state = state or State(None, {name: Extent() for name in files})
    yield f"copied row files and record to {_copy(paths, state)}"
    extents, seen, known = {}, IdSet.of([]), _known(paths)
    with Writer(paths.new(paths.index)) as records:
        for name in state.files:
            with Writer(paths.new(paths.rows(name))) as kept:
                yield _sift(paths, state, name, None if lost else known, seen, kept, records)
            extents[name] = kept.extent
    rewrite.finish(paths, rewrite.decide(paths, state, Intent(extents, records.extent)))
    yield "made the index anew" + (", and checkpoint.json without a fingerprint: the next run stores its own" * lost)


def _copy(paths: Paths, state: State) -> Path:
    copy = paths.folder / f"before-repair-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    disk.make_folders(copy)
    for path in [*map(paths.rows, state.files), paths.index, paths.state]:
        if path.exists():
            rewrite.copy(path, copy / path.name)
    disk.sync_folder(copy)
    return copy


def _known(paths: Paths) -> IdSet | None:
    """What the index confirms: a key for each of its records, from id, size and checksum. None if there is none."""
    if not paths.index.exists():
        return None
    count = paths.index.stat().st_size // index.RECORD.itemsize
    first, second = np.empty(count, np.uint64), np.empty(count, np.uint64)
    done = 0
    for chunk in index.records(paths.index, count):
        words = chunk.view("<u8").reshape(-1, 3)
        first[done : done + len(chunk)], second[done : done + len(chunk)] = words[:, 0], words[:, 1] ^ words[:, 2]
        done += len(chunk)
    return IdSet(first, second) if count else None


def _keys(packed: list[bytes]) -> list[bytes]:
    words = np.frombuffer(b"".join(packed), "<u8").reshape(-1, 3)
    keys = np.stack([words[:, 0], words[:, 1] ^ words[:, 2]], axis=1)
    return [key.tobytes() for key in keys]


def _sift(
    paths: Paths, state: State, name: str, known: IdSet | None, seen: IdSet, kept: Writer, records: Writer
) -> str:
    """Writes the rows of `name` that stay to `kept`, their records to `records` and their ids to `seen`."""
    path, extent, number = paths.rows(name), state.files[name], list(state.files).index(name)
    if not path.exists():
        return f"{path}: missing, made anew without rows"
    trusted = path.stat().st_size >= extent.bytes and rows.checksum(path, extent.bytes) == extent.crc32
    damaged, repeated, offset = [], 0, 0
    for lines in rows.batches(rows.lines(path)):
        whole = [_whole(line) for line in lines]
        packed = [index.pack(ids.digest(rows.identify(row)), number, row) if row else NOTHING for row in whole]
        doubted = np.zeros(len(lines), bool) if trusted or known is None else ~known.contains(_keys(packed))
        before = seen.contains([record[:16] for record in packed])
        fresh: set[bytes] = set()
        for line, row, record, doubt, old in zip(lines, whole, packed, doubted.tolist(), before.tolist()):
            refuted = doubt and offset < extent.bytes  # the index knows nothing of what was not committed
            if row != line or refuted:
                damaged.append(offset)
            offset += len(line)
            if row is None or refuted:
                continue
            if old or record[:16] in fresh:
                repeated += 1
                continue
            fresh.add(record[:16])
            kept.write(row, 1)
            records.write(record, 1)
        seen.add(list(fresh))
    where = f" (the first at byte {damaged[0]:,})" if damaged else ""
    return f"{path}: {kept.extent.rows:,} rows stay; {len(damaged):,} damaged{where} and {repeated:,} repeated are gone"


def _whole(line: bytes) -> bytes | None:
    """The line if it is a whole row, else the whole row that it ends with: what a torn one before it was glued to."""
    start = len(line)
    while rows.identify(line[start:] if start < len(line) else line) is None:
        start = line.rfind(b'{"', 1, start)
        if start < 0:
            return None
    return line[start:] if start < len(line) else line
