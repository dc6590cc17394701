"""Looking at a record without taking its lock."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import ids, index, lock, rows
from . import state as states
from .damage import check_sizes, locate
from .errors import Damaged
from .ids import IdSet
from .lock import Holder
from .paths import FOLDER, Paths
from .state import Extent, State


@dataclass(frozen=True)
class View:
    """The last commit of a record in `out`, and who works on it; also right for a copy of the folder."""

    paths: Paths
    state: State
    holder: Holder | None  # who opened it last and has not closed it in order
    alive: bool  # whether a run has it open now

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        return self.state.fingerprint

    @property
    def counts(self) -> dict[str, int]:
        """Committed rows of each row file."""
        return {name: extent.rows for name, extent in self.committed.items()}

    @property
    def committed(self) -> dict[str, Extent]:
        """What is committed of each row file: rows, bytes, crc32."""
        return self.state.files

    @property
    def time(self) -> str:
        """UTC time of the last commit, ISO 8601."""
        return self.state.time

    def done(self, wanted: Sequence[str]) -> np.ndarray:
        """Bool array of len(wanted): which of these ids have a committed row."""
        return self._ids.contains([ids.digest(id) for id in wanted])

    def rows(self, name: str) -> Iterator[bytes]:
        """The committed rows of the row file `name` in their order, with newlines, read as they are asked for.

        Raises `Damaged`, before the first of them, if they are not what was committed; OSError.
        """
        paths, extent = self.paths, self.committed[name]
        if self.state.intent:
            raise Damaged(paths.rows(name), 0, "rows were being withdrawn, the next run into the folder completes that")
        check_sizes(paths, self.state)
        if rows.checksum(paths.rows(name), extent.bytes) != extent.crc32:
            raise locate(paths, self.state)
        return itertools.islice(rows.lines(paths.rows(name)), extent.rows) if extent.rows else iter(())

    def uncommitted(self) -> Iterator[str]:
        """Ids of the whole rows that stand beyond the last commit, which opening the record would adopt."""
        for name, extent in self.committed.items():
            if self.paths.rows(name).exists():
                found = map(rows.identify, rows.lines(self.paths.rows(name), extent.bytes))
                yield from itertools.takewhile(lambda id: id is not None, found)

    @cached_property
    def _ids(self) -> IdSet:
        path = self.paths.new(self.paths.index)
        if not (self.state.intent and path.exists()):
            path = self.paths.index
        return index.load(path, self.state.index.rows)[0]


def read(out: Path, folder: str = FOLDER) -> View:
    """Raises FileNotFoundError if there is no record; `Damaged`, `Mismatch` if its `checkpoint.json` can't be read."""
    paths = Paths(out, folder)
    state = states.load(paths.state)
    if state is None:
        raise FileNotFoundError(f"no record at {paths.state}")
    if state.intent:  # decided: what is left to do changes nothing in what holds
        state = replace(state, files=state.intent.files, index=state.intent.index)
    return View(paths, state, lock.read(paths.lock), lock.alive(paths.lock))
