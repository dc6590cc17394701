"""Replacing whole files of the record, so that a crash at any instant leaves the old ones or leads to the new ones.

    write NAME.new of each ── fsync each ── fsync of the folder ── commit the intent ── rename each ── commit
                                             a crash up to here changes nothing ┘ └ from here on, opening goes on
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from . import disk, index
from . import state as states
from .errors import Damaged, full
from .ids import IdSet
from .paths import Paths
from .state import Extent, Intent, State

BUFFER = 1 << 22  # bytes collected before a write


class Writer:
    """A new file written from start to end; as a context it is synced on leaving, or removed after an error."""

    def __init__(self, path: Path):
        self.path, self.extent = path, Extent()
        self._fd = disk.open(path)
        self._buffer = bytearray()
        disk.truncate(self._fd, 0)

    def write(self, data: bytes, count: int = 0) -> None:
        """Appends `data` that holds `count` rows. Raises `Full`, OSError."""
        self.extent = self.extent.plus(count, data)
        self._buffer += data
        if len(self._buffer) >= BUFFER:
            self._flush()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, failed: type | None, *_: object) -> None:
        try:
            if not failed:
                self._flush()
                with full(self.extent.bytes, self.path):
                    disk.sync(self._fd)
        except BaseException:
            failed = True
            raise
        finally:
            disk.close(self._fd)
            if failed:
                disk.remove(self.path)

    def _flush(self) -> None:
        with full(len(self._buffer), self.path):
            disk.write_all(self._fd, bytes(self._buffer), self.extent.bytes - len(self._buffer))
        self._buffer.clear()


def copy(source: Path, target: Path) -> None:
    with source.open("rb") as file, Writer(target) as writer:
        while data := file.read(BUFFER):
            writer.write(data)


def selected(paths: Paths, state: State, name: str, ids: Iterable[bytes] | None) -> IdSet:
    """Those rows of row file `name` whose id is among the digests; None: all."""
    asked = None if ids is None else IdSet.of(list(ids))
    number, first, second = list(state.files).index(name), [np.empty(0, "<u8")], [np.empty(0, "<u8")]
    for chunk in index.records(paths.index, state.index.rows):
        mine = chunk[index.number(chunk) == number]
        if asked is not None:
            mine = mine[asked.contains_halves(mine["first"], mine["second"])]
        first.append(mine["first"].copy())
        second.append(mine["second"].copy())
    return IdSet(np.concatenate(first), np.concatenate(second))


def prepare(paths: Paths, state: State, name: str, gone: IdSet) -> Intent:
    """Writes the row file `name` and the index without the ids `gone` beside the old ones, one stream through both.

    Raises `Full`, OSError, `Damaged` if the old rows are not what was committed.
    """
    number, source, crc = list(state.files).index(name), paths.rows(name), 0
    with source.open("rb") as old, Writer(paths.new(source)) as kept, Writer(paths.new(paths.index)) as records:
        for chunk in index.records(paths.index, state.index.rows):
            mine = index.number(chunk) == number
            keep = ~(mine & gone.contains_halves(chunk["first"], chunk["second"]))
            records.write(chunk[keep].tobytes(), int(keep.sum()))
            for wanted, count, size in _spans(keep[mine], index.size(chunk[mine])):
                while size and (data := old.read(min(size, BUFFER))):
                    crc, size = zlib.crc32(data, crc), size - len(data)
                    if wanted:
                        kept.write(data, 0 if size else count)
        if crc != state.files[name].crc32:
            raise Damaged(source, 0, "its rows are not what was committed; a check names the first wrong one")
    return Intent(state.files | {name: kept.extent}, records.extent)


def decide(paths: Paths, state: State, intent: Intent) -> State:
    """Commits the intent: the prepared files are to take the places of the old ones."""
    disk.sync_folder(paths.folder)
    state = replace(state, intent=intent, commit=state.commit + 1)
    states.save(paths.state, state)
    return state


def finish(paths: Paths, state: State) -> State:
    """Completes the intent of `state`, begun or not. Raises `Full`, OSError; can be called again after any crash."""
    for path in [*map(paths.rows, state.files), paths.index]:
        if paths.new(path).exists():
            disk.replace(paths.new(path), path)
    disk.sync_folder(paths.out)
    disk.sync_folder(paths.folder)
    state = State(state.fingerprint, state.intent.files, state.intent.index, state.commit + 1)
    states.save(paths.state, state)
    return state


def _spans(keep: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[bool, int, int]]:
    """Neighbouring rows of the same fate: kept or not, how many, bytes."""
    if len(keep):
        starts = np.concatenate([[0], np.flatnonzero(np.diff(keep)) + 1])
        counts = np.diff(np.append(starts, len(keep)))
        yield from zip(keep[starts].tolist(), counts.tolist(), np.add.reduceat(sizes, starts).tolist())
