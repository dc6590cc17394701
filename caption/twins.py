"""Twins: pictures of equal bytes that are asked the same. The first is computed, the others take over its row."""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import orjson

from caption.errors import ItemError
from caption.item import Item
from caption.outputs.rows import CAPTIONS, FAILED
from caption.sources import Source
from caption.where import Part
from checkpoint import Record

_BLOCK = 1024  # items that are hashed side by side
_UNKNOWN = -1  # size of what no look at a file tells
_OWN = ("id", "image", "extra", "prompt_name")  # fields that a twin does not take over

Row = tuple[str, bytes]  # id and line


class Twins:
    """The twins of one input; none until ``find`` has looked for them.

    Attributes:
        waiting: items that wait for the row of their first.
    """

    def __init__(self):
        self._first_of: dict[int, int] = {}  # index of a twin -> index of its first
        self._left: dict[int, int] = {}  # index of a first -> twins that have no row yet
        self._rows: dict[int, tuple[str, bytes]] = {}  # index of a first -> its row file and row, while twins are left
        self._held: dict[int, list[Item]] = {}
        self.waiting = 0

    def find(self, source: Source, limit: int | None, record: Record, out: Path) -> int:
        """Reads the input twice: sizes first, then the bytes of what has a size that stands more than once.

        Returns:
            How many items are twins of an earlier one.
        """
        firsts: dict[bytes, tuple[int, str]] = {}
        known: dict[int, str] = {}
        for block in _blocks(_hashed(source, limit)):
            twins = []
            for item, key in block:
                first, id = firsts.setdefault(key, (item.index, item.id))
                if first != item.index:
                    self._first_of[item.index] = first
                    known[first] = id
                    twins.append(item)
            done = record.done([item.id for item in twins]) if twins else ()
            for item, is_done in zip(twins, done):
                if not is_done:
                    first = self._first_of[item.index]
                    self._left[first] = self._left.get(first, 0) + 1
        self._recall(known, record, out)
        return len(self._first_of)

    def _recall(self, known: dict[int, str], record: Record, out: Path) -> None:
        """Rows of earlier runs that twins still wait for."""
        firsts = [index for index in known if index in self._left]
        done = record.done([known[index] for index in firsts]) if firsts else ()
        wanted = {known[index]: index for index, is_done in zip(firsts, done) if is_done}
        if not wanted:
            return
        for file in (CAPTIONS, FAILED):
            with (out / file).open("rb") as lines:
                for line in lines:
                    index = wanted.get(orjson.loads(line)["id"])
                    if index is not None:
                        self._rows[index] = file, line.rstrip(b"\n")

    def is_twin(self, item: Item) -> bool:
        """Whether it takes over the row of an earlier one."""
        return item.index in self._first_of

    def hold(self, items: Sequence[Item]) -> tuple[list[Item], dict[str, list[Row]]]:
        """Parts the items: those to compute, and by row file the rows of twins whose first has one."""
        if not self._first_of:
            return list(items), {}
        rows: dict[str, list[Row]] = {}
        to_compute = []
        for item in items:
            first = self._first_of.get(item.index)
            if first is None:
                to_compute.append(item)
            elif first in self._rows:
                file, row = self._rows[first]
                rows.setdefault(file, []).append(_twin_row(item, row))
                self._done(first)
            else:
                self._held.setdefault(first, []).append(item)
                self.waiting += 1
        return to_compute, rows

    def settle(self, item: Item, file: str, row: bytes) -> list[Row]:
        """``item`` has got its row: that row, and those of the twins that waited for it."""
        rows = [(item.id, row)]
        if item.index in self._left:
            self._rows[item.index] = file, row
            held = self._held.pop(item.index, [])
            self.waiting -= len(held)
            for twin in held:
                rows.append(_twin_row(twin, row))
                self._done(item.index)
        return rows

    def _done(self, first: int) -> None:
        self._left[first] -= 1
        if not self._left[first]:
            del self._left[first], self._rows[first]


def _twin_row(item: Item, first: bytes) -> Row:
    fields = orjson.loads(first)
    row = {"id": item.id, "image": item.image, **{name: fields[name] for name in fields if name not in _OWN}}
    if item.prompt_name is not None:
        row["prompt_name"] = item.prompt_name
    if item.extra:
        row["extra"] = item.extra
    row["twin_of"] = fields["id"]
    return item.id, orjson.dumps(row)


def _hashed(source: Source, limit: int | None) -> Iterator[tuple[Item, bytes]]:
    """Items that may have a twin, with a hash of their bytes and of all else that their caption depends on."""
    sizes = np.asarray(array("q", (_size(item) for item in source.items(limit))))
    values, counts = np.unique(sizes, return_counts=True)
    repeated = set(values[(counts > 1) & (values > 0)].tolist()) | {_UNKNOWN}
    candidates = (item for item, size in zip(source.items(limit), sizes.tolist()) if size in repeated)
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) * 2)) as pool:
        for block in _blocks(candidates):
            for item, key in zip(block, pool.map(_hash, block)):
                if key is not None:
                    yield item, key


def _size(item: Item) -> int:
    if item.fault:
        return 0
    if isinstance(item.where, str):
        try:
            status = os.stat(item.where)
        except (OSError, ValueError):
            return 0
        return status.st_size if os.path.isfile(item.where) else 0
    return item.where.size if isinstance(item.where, Part) else _UNKNOWN


def _hash(item: Item) -> bytes | None:
    """None for what can't be read: its failure is its own."""
    asked = (item.prompt, item.prompt_name, item.max_new_tokens, item.lora, item.lora_scale)
    content = blake2b(repr(asked).encode(errors="surrogatepass"), digest_size=16)
    try:
        if isinstance(item.where, str):
            with open(item.where, "rb") as file:
                while data := file.read(1 << 20):
                    content.update(data)
        else:
            content.update(item.where.read())
    except (OSError, ItemError):
        return None
    return content.digest()


def _blocks(items: Iterator) -> Iterator[list]:
    items = iter(items)
    while block := list(itertools.islice(items, _BLOCK)):
        yield block
