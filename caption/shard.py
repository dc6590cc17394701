"""Shard: the part of an input that one job of an array does, by a hash of each image's id."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from caption.errors import UsageError
from checkpoint.ids import digest

_TEXT = re.compile(r"(\d+)/(\d+)", re.ASCII)
_FOLDER = re.compile(r"shard-(\d{4,})-of-(\d{4,})", re.ASCII)
MOST = 100_000  # of one set: each reads all names of the input, so that many more would do little else


class Shard(NamedTuple):
    """Attributes:
    number: of this one, counted from 0.
    of: how many there are.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def folder(self) -> str:
        """Name of its folder inside the output folder."""
        return f"shard-{self.number:04}-of-{self.of:04}"

    def holds(self, image: str) -> bool:
        """Whether the image of this id, as ``image_of`` gives it, is in this shard: the same on every machine."""
        return int.from_bytes(digest(image)[:8], "little") % self.of == self.number


def parse_shard(text: str) -> Shard:
    """The shard that is written I/N. Raises ValueError, with a sentence."""
    found = _TEXT.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is no I/N, like 0/64 for the first of 64 shards")
    shard = Shard(int(found[1]), int(found[2]))
    if not 1 <= shard.of <= MOST:
        raise ValueError(f"{shard}: a set has 1 to {MOST:,} shards")
    if shard.number >= shard.of:
        raise ValueError(f"{shard}: shards count from 0, the last of {shard.of} is {shard.of - 1}/{shard.of}")
    return shard


def shard_of_folder(path: Path) -> Shard | None:
    """The shard whose folder has this name; None: it is no such name."""
    found = _FOLDER.fullmatch(path.name)
    return Shard(int(found[1]), int(found[2])) if found else None


def own_folder(output: str, shard: Shard) -> str:
    """Where the rows of a shard lie: in a folder of its own inside ``output``, or that folder itself if it is given.

    Raises:
        UsageError: ``output`` is the folder of another shard.
    """
    given = shard_of_folder(Path(output))
    if given and given != shard:
        raise UsageError(f"{output} is the folder of shard {given}, not {shard}", "give the folder that holds it")
    return output if given else os.path.join(output, shard.folder)


def common_folder(output: Path) -> Path:
    """The folder that holds the folders of all shards, from that of one."""
    return Path(os.path.abspath(output)).parent


def image_of(id: str, prompts: Sequence[str] = ()) -> str:
    """The id that all items of one image, and all images that might get one and the same id, have in common: less any
    ``~2`` and ``#prompt`` at its end. So ids that are made unique are the same in a shard as in the whole input.

    Args:
        prompts: names that are put behind ids, where each image is asked several.
    """
    return _ending(tuple(prompts)).sub("", id)


@functools.cache
def _ending(prompts: tuple[str, ...]) -> re.Pattern:
    names = "".join(f"|#{re.escape(name)}" for name in prompts)
    return re.compile(rf"(?:~[0-9]+{names})+\Z")
