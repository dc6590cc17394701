"""Is everything in the folder what the record says? Used by users and tests alike."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from . import index, lock, rows
from . import state as states
from .damage import check_sizes, walk
from .errors import Damaged, Error
from .paths import FOLDER, Paths
from .state import State

MOST = 20  # problems named one by one


def check(out: Path, folder: str = FOLDER) -> list[str]:
    """Problems of the record in `out` in plain words, none if all holds. Reads all rows; changes nothing.

    While a run writes there, what lies beyond its last commit is not looked at.
    """
    paths = Paths(out, folder)
    return problems(paths, running=lock.alive(paths.lock))


def problems(paths: Paths, running: bool) -> list[str]:
    """As `check`; running: whether somebody writes in the folder."""
    try:
        state = states.load(paths.state)
    except Error as error:
        return [str(error)]
    if state is None:
        return [f"{paths.state} is missing"]
    if state.intent:
        return [f"a withdrawal was interrupted: the next run, or a repair, completes it (noted in {paths.state})"]
    try:
        check_sizes(paths, state)
    except Damaged as error:
        return [str(error)]
    found = itertools.chain(_checksums(paths, state), _rows(paths, state), () if running else _tails(paths, state))
    named = list(itertools.islice(found, MOST))
    if more := sum(1 for _ in found):
        named.append(f"and {more:,} more")
    return named


def _checksums(paths: Paths, state: State) -> Iterator[str]:
    for path, extent in [*((paths.rows(name), state.files[name]) for name in state.files), (paths.index, state.index)]:
        if rows.checksum(path, extent.bytes) != extent.crc32:
            yield f"{path} does not have the checksum that was committed, in its first {extent.bytes:,} bytes"


def _rows(paths: Paths, state: State) -> Iterator[str]:
    """Every committed row against the index, every count against both."""
    repeated = set(index.load(paths.index, state.index.rows)[0].repeated())
    count, size = Counter(), Counter()
    for entry in walk(paths, state):
        if entry.file is None:
            yield f"record {entry.position + 1:,} of {paths.index} names a row file that there is not"
            continue
        count[entry.file] += 1
        size[entry.file] += len(entry.line)
        wrong = ""
        if not entry.intact:
            wrong = "not the row whose checksum and size are in the index"
        elif not entry.named:
            wrong = "not a row with the id that is in the index"
        elif entry.digest in repeated:
            wrong = f"one of several rows of the id {rows.identify(entry.line)!r}"
        if wrong:
            yield f"{paths.rows(entry.file)}, row {count[entry.file]:,} at byte {entry.offset:,}: {wrong}"
    for name, extent in state.files.items():
        if (count[name], size[name]) != (extent.rows, extent.bytes):
            yield (
                f"{paths.rows(name)}: {extent.rows:,} rows of {extent.bytes:,} bytes are committed, "
                f"the index has {count[name]:,} of {size[name]:,}"
            )


def _tails(paths: Paths, state: State) -> Iterator[str]:
    for name, extent in state.files.items():
        path, whole, other = paths.rows(name), 0, 0
        if path.exists():
            for line in rows.lines(path, extent.bytes):
                if other or rows.identify(line) is None:
                    other += len(line)
                else:
                    whole += 1
        if whole:
            yield f"{path}: {whole:,} rows after byte {extent.bytes:,} are not committed yet: the next run takes them"
        if other:
            yield f"{path}: {other:,} bytes at its end are no whole row: the next run cuts them"
