"""The record of a job: row files, the index of their rows, and the commit that ties them."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from . import disk, durable, ids, index, rewrite, rows
from . import state as states
from .check import problems
from .damage import check_sizes, locate
from .errors import BLOCK, Broken, Damaged, Mismatch, full
from .index import Index
from .lock import Lock
from .paths import FOLDER, Paths
from .rows import RowFile
from .state import Extent, State


def _breaking(method: Callable) -> Callable:
    """An error on the way leaves memory and disk apart: the record then takes nothing more but `close`."""

    @functools.wraps(method)
    def guarded(self: "Record", *args: Any) -> Any:
        if self._cause is not None:
            raise Broken(self._cause)
        try:
            with full(BLOCK, self._paths.out):
                return method(self, *args)
        except BaseException as error:
            self._cause = error
            raise

    return guarded


class Record:
    """The record of the folder `out`, open for one writer; use `open`.

    adopted: rows found whole beyond the last commit and taken, a number for each row file.
    cut: bytes beyond these that were cut, a number for each row file.
    """

    def __init__(self, out: Path, fingerprint: dict[str, Any], files: Sequence[str], folder: str = FOLDER):
        self._paths = Paths(out, folder)
        self._numbers = {name: number for number, name in enumerate(files)}
        self._pending, self.uncommitted = bytearray(), 0
        self._cause: BaseException | None = None
        self._open, self._files_open = contextlib.ExitStack(), contextlib.ExitStack()  # all; without the lock
        try:
            disk.make_folders(self._paths.folder)
            self._lock = Lock(self._paths.lock)
            self._open.callback(self._lock.release)
            self._open.enter_context(self._files_open)
            found = states.load(self._paths.state)
            self._state = found or State(None, {name: Extent() for name in files})
            self._check_job(fingerprint, tuple(files))
            self._clear_leftovers()
            if self._state.intent:
                self._state = rewrite.finish(self._paths, self._state)
            self._load()
            self._pick_up(record_lost=found is None)
            if self._state.fingerprint is None or self.uncommitted:
                self._state = replace(self._state, fingerprint=fingerprint)
                self._commit()
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each row file, those not yet committed included."""
        return {name: file.extent.rows for name, file in self._files.items()}

    def done(self, wanted: Sequence[str]) -> np.ndarray:
        """Bool array of len(wanted): which of these ids have a row."""
        return self._ids.contains([ids.digest(id) for id in wanted])

    def append(self, file: str, new: Sequence[tuple[str, bytes]]) -> None:
        """Appends rows to `file`: (id, JSON object with that `id`, without newline).

        On return no kill of the process loses them; `commit` makes them safe from a power cut. Raises ValueError,
        with nothing written, if a row is not what it must be or its id has a row already; `Damaged`, with nothing
        written, if the file does not end where the last append ended; `Full`, OSError, `Broken`.
        """
        if self._cause is not None:
            raise Broken(self._cause)
        digests = [ids.digest(id) for id, _ in new]
        lines = [line + b"\n" for _, line in new]
        for (id, line), whole in zip(new, lines):
            if b"\n" in line or rows.identify(whole) != id:
                raise ValueError(f"not one line of a JSON object with the id {id!r}: {line[:200]!r}")
        if (known := self._fresh(digests)) < len(digests):
            raise ValueError(f"{new[known][0]!r} has a row already")
        self._append(self._files[file].append, file, digests, lines)

    @_breaking
    def commit(self) -> None:
        """Makes all rows durable, and them and their ids part of the record, or none of them if it fails.

        Raises `Full`, OSError, `Lost` if another run took the folder over, `Damaged` if a row file was changed
        by somebody else. The record is then broken: close it and open it again.
        """
        self._lock.confirm()
        self._lock.beat()
        if self.uncommitted:
            self._commit()

    @_breaking
    def withdraw(self, file: str, wanted: Iterable[str] | None) -> int:
        """Takes the rows of these ids (None: all rows) out of the row file `file`; how many there were.

        The only way a row ever leaves. Commits first; then all of them are withdrawn or, up to the instant of the
        decision, none. Rewrites the row file: needs its size as free space. Raises as `commit`.
        """
        digests = None if wanted is None else map(ids.digest, wanted)
        self._lock.confirm()
        if self.uncommitted:
            self._commit()
        gone = rewrite.selected(self._paths, self._state, file, digests)
        if len(gone):
            intent = rewrite.prepare(self._paths, self._state, file, gone)
            self._state = rewrite.finish(self._paths, rewrite.decide(self._paths, self._state, intent))
            self._files_open.close()
            self._load()
        return len(gone)

    def check(self) -> list[str]:
        """Problems in plain words of all that is committed, none if all holds; reads all rows. See `check.check`."""
        return problems(self._paths, running=True)

    @_breaking
    def beat(self) -> None:
        """Call it at least every 30 s: keeps the folder locked on file systems without locks. Raises `Lost`."""
        self._lock.beat()

    def close(self) -> None:
        """Commits, if nothing went wrong before, and lets go of the folder in any case. Raises as `commit`."""
        with self._open:
            if self._cause is None:
                self.commit()
                self._cause = ValueError("it was closed")  # its descriptors may soon be those of other files

    # Opening ---------------------------------------------------------------------------------------------------------

    def _clear_leftovers(self) -> None:
        """Removes what a crash left half prepared; what an intent needs stays."""
        needed = self._state.intent.files.keys() | {self._paths.index.name} if self._state.intent else set()
        for path in self._paths.folder.glob("*.new"):
            if path.name.removesuffix(".new") not in needed:
                disk.remove(path)
        disk.remove(durable.temporary(self._paths.state))

    def _check_job(self, fingerprint: dict[str, Any], files: tuple[str, ...]) -> None:
        if files != tuple(self._state.files):
            raise Mismatch("row files", tuple(self._state.files), files)
        if self._state.fingerprint is None:
            return
        try:
            states.compare(self._state.fingerprint, orjson.loads(orjson.dumps(fingerprint)))
        except Mismatch:
            if not self._rowless():
                raise
            self._state = replace(self._state, fingerprint=None)  # no row was made under it

    def _rowless(self) -> bool:
        """Whether there is no row, neither committed nor beyond, nor a byte that may be part of one."""
        paths = [self._paths.rows(name) for name in self._state.files]
        return (
            not self._state.intent
            and not any(extent.rows or extent.bytes for extent in (*self._state.files.values(), self._state.index))
            and not any(path.exists() and path.stat().st_size for path in paths)
        )

    def _load(self) -> None:
        """Opens the files and loads the ids. Raises `Damaged` unless all that is committed is there and right."""
        state, paths = self._state, self._paths
        check_sizes(paths, state)
        self._index = Index(paths.index, state.index)
        self._files_open.callback(self._index.close)
        self._files = {}
        for name, extent in state.files.items():
            self._files[name] = RowFile(paths.rows(name), extent)
            self._files_open.callback(self._files[name].close)
        with ThreadPoolExecutor(1) as pool:  # crc32 runs without the GIL: beside the loading of the index
            sums = pool.submit(lambda: [rows.checksum(file.path, file.extent.bytes) for file in self._files.values()])
            self._ids, crc = index.load(paths.index, state.index.rows)
        if [crc, *sums.result()] != [extent.crc32 for extent in (state.index, *state.files.values())]:
            raise locate(paths, state)

    def _pick_up(self, record_lost: bool) -> None:
        """Adopts whole rows beyond the last commit and cuts what follows them.

        Without a record all rows are beyond it: then no more than one torn last row is cut.
        """
        self.adopted, self.cut = {}, {}
        for name, file in self._files.items():
            before = file.extent.rows
            for lines in rows.batches(rows.lines(file.path, file.extent.bytes)):
                named = itertools.takewhile(lambda id: id is not None, map(rows.identify, lines))
                digests = [ids.digest(id) for id in named]
                fresh = self._fresh(digests)
                self._append(file.adopt, name, digests[:fresh], lines[:fresh])
                if fresh < len(lines):
                    break
            beyond = itertools.islice(rows.lines(file.path, file.extent.bytes), 1, None)
            if record_lost and any(rows.identify(line) is not None for line in beyond):
                raise Damaged(file.path, file.extent.bytes, "not a whole row with an id of its own, but rows follow it")
            self.adopted[name], self.cut[name] = file.extent.rows - before, file.cut()

    # Writing ---------------------------------------------------------------------------------------------------------

    def _fresh(self, digests: list[bytes]) -> int:
        """How many of the digests, from the first on, are neither known nor a repetition."""
        known = np.flatnonzero(self._ids.contains(digests))
        count = int(known[0]) if len(known) else len(digests)
        if len(set(digests[:count])) < count:
            seen: set[bytes] = set()
            count = next(i for i, one in enumerate(digests) if one in seen or seen.add(one))
        return count

    @_breaking
    def _append(self, write: Callable, name: str, digests: list[bytes], lines: list[bytes]) -> None:
        if not lines:
            return
        write(lines)
        number = self._numbers[name]
        self._pending += b"".join([index.pack(digest, number, line) for digest, line in zip(digests, lines)])
        self._ids.add(digests)
        self.uncommitted += len(lines)

    def _commit(self) -> None:
        for name, file in self._files.items():
            if file.extent != self._state.files[name]:
                file.sync()
        if self._pending:
            self._index.append(bytes(self._pending))
        extents = {name: file.extent for name, file in self._files.items()}
        state = State(self._state.fingerprint, extents, self._index.extent, self._state.commit + 1)
        states.save(self._paths.state, state)
        self._state, self._pending, self.uncommitted = state, bytearray(), 0
