"""Export: committed rows into another format, each once, with a cursor of its own; idempotent after any crash."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

from caption.choose.selection import Selection, blocks
from caption.outputs.archived import Archived
from caption.outputs.committed import Committed, Row
from caption.outputs.ledger import Ledger, Position
from caption.outputs.note import Note
from caption.outputs.pictures import item_name


@dataclass(frozen=True)
class Origin:
    """Where rows are from.

    Attributes:
        out: output folder of the run.
        input: folder from which the rows' images count.
    """

    out: Path
    input: Path

    @functools.cached_property
    def pictures(self) -> Archived:
        """Where the pictures' bytes come from."""
        return Archived(self.out, self.input)


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and where to.

    Attributes:
        origins: of the rows, one an output folder.
        target: folder or file to write, as the format wants it.
        beside: sidecars and metadata stand by the pictures, not in ``target``.
        column: name of the caption's column (imagefolder).
        shard_size: rows of one file, of formats in several.
        overwrite: also files that this export did not write.
        added: fields that the selection adds to rows.
        one_an_image: no image has more than one row, so files need no prompt in their names.
    """

    origins: Sequence[Origin]
    target: Path
    beside: bool = False
    column: str = "text"
    shard_size: int | None = None
    overwrite: bool = False
    added: tuple[str, ...] = ()
    one_an_image: bool = False

    @property
    def input(self) -> Path:
        """Of the first folder."""
        return self.origins[0].input

    def origin(self, row: Row) -> Origin:
        return self.origins[row.folder]

    def item_name(self, row: Row) -> str:
        """What the name of a row's file needs beside that of its picture; mostly ""."""
        return "" if self.one_an_image else item_name(row.data)


class Format(Protocol):
    """Writes rows. Made with (ExportOptions, Ledger); raises OutputError where a file that is not its own stands.

    Attributes:
        notes: what could not be written; those that count 0 say nothing.
    """

    notes: list[Note]

    def restart(self) -> None:
        """All rows come again, from the first on."""

    def write(self, rows: list[Row], end: Position) -> None:
        """Writes the rows up to ``end``, and notes in the ledger from where to go on if killed now."""

    def finish(self) -> None:
        """All rows that there are now have been given."""


class Export:
    """Args:
    make: the format's class.
    selection: which rows.
    patience: seconds to wait for another export of this kind.
    """

    def __init__(
        self,
        options: ExportOptions,
        name: str,
        make: Callable[[ExportOptions, Ledger], Format],
        selection: Selection,
        patience: float = 0,
    ):
        self._outs = [origin.out for origin in options.origins]
        self._selection = selection
        self._ledger = Ledger(self._outs[0] / "exports" / f"{name}.sqlite", patience)
        settings = orjson.dumps([options.column, options.shard_size, *selection.settings]).decode()
        changed = self._ledger.get("settings") not in (None, settings)
        self.format = make(options, self._ledger)
        if changed:
            self._restart()
        self._ledger.note(self._ledger.position, (), settings=settings)
        self._files: tuple[int, ...] | None = None
        self._at = self._ledger.position
        self.written = 0

    def run(self) -> None:
        """Writes what is committed now and was not written."""
        with contextlib.closing(Committed(self._outs)) as committed:
            if not committed.files:  # of a run that has only begun
                return
            state = self._selection.read(committed)
            if state != self._ledger.get("chosen from", ""):
                self._restart()
                self._ledger.note(Position(), (), **{"chosen from": state})
                self._files = None
            if committed.files != self._files:  # the first pass, or rows were withdrawn and the file is another
                self._files, self._at = committed.files, self._ledger.position
                if not committed.has(self._at):
                    self._restart()
                    self._at = Position()
            for block in blocks(committed.rows(self._at)):
                self._at = block[-1].end
                kept = self._selection.kept(block)
                self.written += len(kept)
                self.format.write(kept, self._at)

    def _restart(self) -> None:
        self._ledger.begin_again()
        self.format.restart()
        self.written = 0

    def finish(self) -> None:
        self.format.finish()

    def close(self) -> None:
        self._ledger.close()
