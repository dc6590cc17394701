"""Everything this package raises by itself; any other OSError comes through as it is.

    Error
    ├── Busy       another run holds the folder
    ├── Mismatch   the record belongs to a job with other settings
    ├── Damaged    something inside the committed lengths is not what was committed
    ├── Full       no space (ENOSPC, EDQUOT)
    └── Broken     an earlier error, or closing, left this record unusable; open it again
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLOCK = 4096  # bytes: what a new name, file or folder takes about, where no number is known


class Error(Exception):
    """Base of all errors of the record."""


class Busy(Error):
    """Another run holds the lock. `holder` is a `Holder`, or None if it could not be read."""

    def __init__(self, holder: Any):
        super().__init__(f"the folder is in use by {holder or 'another run'}")
        self.holder = holder


class Mismatch(Error):
    """`field` of the fingerprint was `old` in the record and is `new` now (None: not there)."""

    def __init__(self, field: str, old: Any, new: Any):
        super().__init__(f"{field} was {old!r} in the record and is {new!r} now")
        self.field, self.old, self.new = field, old, new


class Damaged(Error):
    """`file` is not what was committed, first at `byte`; `what` says it in words."""

    def __init__(self, file: Path, byte: int, what: str):
        super().__init__(f"{file} is damaged at byte {byte:,}: {what}")
        self.file, self.byte, self.what = file, byte, what


class Full(Error):
    """No space at `where` for `needed` more bytes."""

    def __init__(self, needed: int, where: Path):
        super().__init__(f"no space left for {needed:,} more bytes at {where}")
        self.needed, self.where = needed, where


class Broken(Error):
    """The record refuses further work after `cause`; what it holds on disk is safe, open it again."""

    def __init__(self, cause: BaseException):
        super().__init__(f"the record takes nothing more since: {cause}")
        self.cause = cause


@contextmanager
def full(needed: int, where: Path) -> Iterator[None]:
    """Turns a lack of space inside the block into `Full`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Full(needed, where) from error
        raise
