"""Picture: what a source gives for each image of its input, before seeds and prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from caption.where import Where

NAMED = 3  # of what is passed over, so many are named


class Picture(NamedTuple):
    """One image of the input.

    Attributes:
        id: its key in the input.
        image: what the row shows as the image.
        where: its place.
        fields: what the input says about it, or None.
        fault: class and message of the ItemError, where the input gives no picture here.
    """

    id: str
    image: str
    where: Where
    fields: dict | None = None
    fault: tuple[str, str] | None = None


class Unread(str):
    """A warning of images that can't even be named, so that no row tells of them."""


class Pictures(Protocol):
    """One kind of input.

    Attributes:
        described: what it is, for the banner ("folder photos").
        takes: what it looks for, for the sentence of an input that holds none.
        unique: no id can stand twice in it.
        ignored: files passed over so far because they are no pictures.
        ignored_first: the names of the first ``NAMED`` of them.
        warnings: sentences about what couldn't be read, Unread or not; grows while pictures are read.
    """

    described: str
    takes: str
    unique: bool
    ignored: int
    ignored_first: Sequence[str]
    warnings: list[str]

    def pictures(self) -> Iterator[Picture]:
        """In order; a fresh walk at each call."""
        ...

    def size(self) -> int | None:
        """How many there are, or None where that takes as long as a walk."""
        ...
