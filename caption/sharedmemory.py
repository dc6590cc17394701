"""Shared memory from a loader to its worker: large arrays are written once, and read where they lie.

A memory file without a name belongs to each loader and its successors, so nothing is left behind whoever is killed. The
loader alone decides what lies where; the worker only says what it no longer needs. The file holds the arrays that the
worker has not let go, and the gaps between them. It grows by segments and never shrinks; the LoaderPool bounds it, in
that it asks for no more pictures while much is held.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
import tempfile
import weakref
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_SEGMENT = 64 << 20  # bytes; a message that needs more gets a segment as large as itself
_SMALLEST = 1 << 14  # bytes; smaller arrays go in the message
_ALIGN = 64


class Parcel(NamedTuple):
    """An object whose large arrays lie in shared memory.

    Attributes:
        body: its pickle, without them.
        segment: where the segment that holds them lies in the file, and its bytes.
        block: where they lie in the segment, and their bytes. Both are (0, 0) where there is no such array.
        places: of each array in the block: first byte, bytes.
    """

    body: bytes
    segment: tuple[int, int]
    block: tuple[int, int]
    places: tuple[tuple[int, int], ...]


Block = tuple[int, int]  # where its segment lies in the file, where it lies in the segment
Held = tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...]  # of each segment: start, bytes, blocks: start, bytes


def new_memory() -> int:
    """A file descriptor of memory without a name, or of a file already deleted where the system has none such."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # some containers forbid it
            return os.memfd_create("caption-loader")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Outgoing:
    """The loader's end.

    Args:
        descriptor: as ``new_memory`` returned it.
        held: what a loader before this one has put there and is still needed.
    """

    def __init__(self, descriptor: int, held: Held = ()):
        self._descriptor, self._end = descriptor, os.fstat(descriptor).st_size
        self._segments = {start: _Segment(descriptor, start, length, blocks) for start, length, blocks in held}

    def pack(self, message: object) -> Parcel:
        buffers: list[pickle.PickleBuffer] = []

        def keep_in_body(buffer: pickle.PickleBuffer) -> bool:
            with buffer.raw() as raw:
                large = raw.nbytes >= _SMALLEST
            if large:
                buffers.append(buffer)
            return not large

        body = io.BytesIO()
        pickle.Pickler(body, protocol=5, buffer_callback=keep_in_body).dump(message)
        raws = [buffer.raw() for buffer in buffers]
        places, size = [], 0
        for raw in raws:
            places.append((size, raw.nbytes))
            size += -(-raw.nbytes // _ALIGN) * _ALIGN
        if not size:
            return Parcel(body.getvalue(), (0, 0), (0, 0), ())
        segment, start = self._take(size)
        for raw, (place, count) in zip(raws, places):
            segment.memory[start + place : start + place + count] = raw
        return Parcel(body.getvalue(), (segment.start, len(segment.memory)), (start, size), tuple(places))

    def put(self, data: bytes | memoryview) -> tuple[Block, int]:
        """Writes the bytes as they are; returns their block, and where they lie in the file."""
        segment, start = self._take(-(-len(data) // _ALIGN) * _ALIGN)
        segment.memory[start : start + len(data)] = data
        return (segment.start, start), segment.start + start

    def free(self, freed: tuple[Block, ...]) -> None:
        for segment, start in freed:
            self._segments[segment].free(start)

    def _take(self, size: int) -> tuple[_Segment, int]:
        for segment in self._segments.values():
            if (start := segment.take(size)) is not None:
                return segment, start
        page = mmap.ALLOCATIONGRANULARITY
        length = max(_SEGMENT, -(-size // page) * page)
        os.ftruncate(self._descriptor, self._end + length)
        segment = self._segments[self._end] = _Segment(self._descriptor, self._end, length)
        self._end += length
        return segment, segment.take(size)


class _Segment:
    """A piece of the file, and which blocks of it are taken."""

    def __init__(self, descriptor: int, start: int, length: int, blocks: tuple[tuple[int, int], ...] = ()):
        self.start = start
        self.memory = mmap.mmap(descriptor, length, offset=start)
        self._taken = {first: first + size for first, size in sorted(blocks)}  # in order: first byte -> the byte behind

    def take(self, size: int) -> int | None:
        """Where a block of this size has been put: the first gap that holds it. None: there is none."""
        start = 0
        for first, end in self._taken.items():
            if first - start >= size:
                break
            start = end
        if start + size > len(self.memory):
            return None
        self._taken[start] = start + size
        self._taken = dict(sorted(self._taken.items()))
        return start

    def free(self, start: int) -> None:
        del self._taken[start]


class Incoming:
    """The worker's end, for one thread; only the arrays may be dropped in others.

    Args:
        descriptor: as ``new_memory`` returned it; it is closed with this.
    """

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._segments: dict[int, np.ndarray] = {}
        self._sizes: dict[Block, int] = {}  # of what is still needed
        self._dropped: deque[Block] = deque()  # appended to at any moment, by whoever drops the last array
        self._freed: list[Block] = []
        self._unlocked: deque[np.ndarray] = deque()

    def unpack(self, parcel: Parcel) -> object:
        """The object. Its block can be freed as soon as nothing refers to any of its large arrays."""
        start, size = parcel.block
        if not size:
            return pickle.loads(parcel.body)
        block = self._segment(*parcel.segment)[start : start + size]
        self._sizes[parcel.segment[0], start] = size
        weakref.finalize(block, self._dropped.append, (parcel.segment[0], start)).atexit = False
        # What is made of these refers to the block, where slices of an array would refer to the whole segment.
        views = [memoryview(block)[place : place + count] for place, count in parcel.places]
        return pickle.loads(parcel.body, buffers=views)

    def freed(self) -> tuple[Block, ...]:
        """What has been let go since the last call."""
        self._notice()
        freed, self._freed = tuple(self._freed), []
        return freed

    @property
    def bytes_held(self) -> int:
        self._notice()
        return sum(self._sizes.values())

    def held(self) -> Held:
        """What a new loader has to know. What has been let go is not part of it, and never told again."""
        self.freed()
        return tuple(
            (start, memory.nbytes, tuple((first, size) for (of, first), size in self._sizes.items() if of == start))
            for start, memory in self._segments.items()
        )

    def lock_pages(self, lock: Callable[[np.ndarray], bool]) -> bool:
        """Has one segment locked that is not yet, if ``lock`` can do it: returns True. Whether there was one."""
        if locked := bool(self._unlocked) and lock(self._unlocked[0]):
            self._unlocked.popleft()
        return locked

    def close(self) -> None:
        """Lets the file go. Arrays that are still in use stay readable."""
        os.close(self.descriptor)
        self._segments.clear()
        self._unlocked.clear()

    def _notice(self) -> None:
        while self._dropped:  # never iterated over: it can grow in between
            self._freed.append(self._dropped.popleft())
            del self._sizes[self._freed[-1]]

    def _segment(self, start: int, length: int) -> np.ndarray:
        if start not in self._segments:
            memory = mmap.mmap(self.descriptor, length, offset=start)
            self._segments[start] = np.frombuffer(memory, np.uint8)
            self._unlocked.append(self._segments[start])
        return self._segments[start]
