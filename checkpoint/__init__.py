"""The durable record of a job: which rows are done, exactly once, whatever happens. See README.md for the format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import durable
from .check import check
from .errors import BLOCK, Broken, Busy, Damaged, Error, Full, Mismatch, full
from .lock import Holder, Lost
from .paths import FILES, FOLDER
from .record import Record
from .repair import repair
from .view import View, read

__all__ = [
    "FILES", "FOLDER", "Broken", "Busy", "Damaged", "Error", "Full", "Holder", "Lost", "Mismatch", "Record", "View",
    "check", "durable", "open", "read", "repair",
]  # fmt: skip


def open(out: Path, fingerprint: dict[str, Any], files: Sequence[str] = FILES, folder: str = FOLDER) -> Record:
    """Opens a record of the output folder `out` for writing, and makes it if there is none.

    Completes an interrupted withdrawal, adopts whole rows beyond the last commit, cuts what follows them.
    fingerprint: JSON values by name; the first use stores them, each later use must bring the same.
    files: names of the row files in `out`, always the same in the same order.
    folder: in `out`, the record's own: a second record beside the first has another, and other row files.

    Raises `Busy`, `Mismatch`, `Damaged`, `Full`, OSError.
    """
    with full(BLOCK, out):
        return Record(out, fingerprint, files, folder)
