"""Sources: one file a kind of input. A source gives its items in order, once, without holding them all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from caption.errors import InputError
from caption.item import Item
from caption.sources.folder import FolderSource, shown


class Source(Protocol):
    """What a run reads from.

    Attributes:
        described: what it is, for the banner ("folder photos").
        ignored: files passed over so far because they are no pictures.
        warnings: sentences about what couldn't be read; grows while items are read.
    """

    described: str
    ignored: int
    warnings: list[str]

    def items(self) -> Iterator[Item]:
        """The items in order of their positions; a fresh walk at each call."""
        ...


def open_source(path: Path, seed: int, output: Path) -> Source:
    """The source for what ``path`` is.

    Args:
        seed: seed of the first item; the item at position i gets ``seed + i``.
        output: the output folder, never read even when it lies inside ``path``.

    Raises:
        InputError: there is nothing at ``path``, or nothing that can be read.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"there is no folder {shown(path)}", "check the path") from error
    except OSError as error:
        raise InputError(f"can't read {shown(path)}: {error.strerror}", "check the path and its permissions") from error
    if not stat.S_ISDIR(mode):
        raise InputError(f"{shown(path)} is not a folder", "give the folder that holds the pictures")
    return FolderSource(path, seed, output)
