"""Call: one call of CaptionPool.caption. It reads its images ahead in the caller's thread, and gives results."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from caption.dispatch import Ending
from caption.given import GivenPictures, PictureMemory
from caption.item import Item
from caption.messages import Result
from caption.poolthread import PoolThread
from caption.where import Shared

_MOST_BYTES = 2 << 30  # of pictures that are no files and whose results have not been taken
_AT_ONCE = 2  # images that are read although a result is there: one takes its place, one fills up


@dataclass(frozen=True, slots=True)
class CaptionResult:
    """What became of one image.

    Attributes:
        index: its position in the call, counted from 0.
        id: its path, the id of its row, or "image 7".
        image: what was given.
        success: whether there is a caption.
        caption: the text, or None.
        seconds: that it was in the engine, beside others; 0.0 if it failed.
        error, message: class and words of what is wrong, as in ``failed.jsonl``; or None.
        finish_reason: "stop", or "length" if the caption was cut at max_new_tokens; None if it failed.
        tokens: of the caption.
        width, height: of the upright picture; 0 if it failed.
        seed: the caption was drawn by, where there is a temperature.
        attempts: how often it was tried. ``retries``: (reason, what was changed) of each further try.
        flags: what the guard doubts: "loop", "refusal", ...
        raw: the untouched text, if the caption was trimmed.
        extra: the other fields of its row.
        worker: the seat that did it: "gpu0"; None if none was asked.
    """

    index: int
    id: str
    image: Any
    success: bool
    caption: str | None
    seconds: float
    error: str | None
    message: str | None
    finish_reason: str | None
    tokens: int
    width: int
    height: int
    seed: int
    attempts: int
    retries: tuple[tuple[str, str], ...]
    flags: tuple[str, ...]
    raw: str | None
    extra: dict | None
    worker: str | None


_NOTHING = Result((0, 0), "", None, "", 0, 0, 0, 0.0, ())


def _result(position: int, image: Any, item: Item, ending: Ending | None) -> CaptionResult:
    error, message = (ending.error, ending.message) if ending else item.fault
    found = ending and ending.result
    known = found or _NOTHING
    return CaptionResult(
        index=position,
        id=item.id,
        image=image,
        success=bool(found),
        caption=found.caption if found else None,
        seconds=known.seconds,
        error=None if found else error,
        message=None if found else message,
        finish_reason=found.finish_reason if found else None,
        tokens=known.tokens,
        width=known.width,
        height=known.height,
        seed=item.seed,
        attempts=item.attempts + 1,
        retries=tuple((change.reason, change.changed) for change in item.retries),
        flags=known.flags,
        raw=known.raw,
        extra=item.extra,
        worker=ending.worker if ending else None,
    )


class Call:
    """Args:
    items: one for each of ``given``'s pictures, made as they are asked for.
    ordered: results come as the images do; else as they end.
    """

    def __init__(
        self, thread: PoolThread, items: Iterator[Item], given: GivenPictures, memory: PictureMemory, ordered: bool
    ):
        self._thread, self._items, self._given, self._memory = thread, items, given, memory
        self._ordered = ordered
        self._changed = threading.Condition()
        self._images: dict[int, Any] = {}  # by position, what was given for those that have no result yet
        self._sizes: dict[int, int] = {}  # bytes of their pictures, until the result is taken
        self._results: dict[int, CaptionResult] = {}
        self._read = self._taken = self._bytes = 0
        self._at_end = False
        self._error: BaseException | None = None
        self._over = False

    def results(self) -> Iterator[CaptionResult]:
        """Until there are no more images. Raises what the images raise, and what ends the pool."""
        try:
            while True:
                self._read_ahead()
                if self._taken == self._read:
                    return
                yield self._next()
        finally:
            self._over = True
            if self._taken < self._read:
                self._thread.cancel(self)

    # ---- in the caller's thread ----

    def _read_ahead(self) -> None:
        read = 0
        while not self._at_end and self._has_room() and not (read >= _AT_ONCE and self._is_ready()):
            item = next(self._items, None)
            if item is None:
                self._at_end = True
                return
            read += 1
            self._ask(item)

    def _has_room(self) -> bool:
        open_ = self._read - self._taken
        return not open_ or (open_ < self._thread.ahead and self._bytes < _MOST_BYTES)

    def _ask(self, item: Item) -> None:
        position, image = self._read, self._given.latest
        size = item.where.size if isinstance(item.where, Shared) else 0
        self._read += 1
        self._sizes[position] = size
        self._bytes += size
        if item.fault:
            self._memory.drop(item.where)
            self._put(_result(position, image, item, None))
        else:
            self._images[position] = image
            self._thread.submit(self, position, item)

    def _is_ready(self) -> bool:
        return self._taken in self._results if self._ordered else bool(self._results)

    def _next(self) -> CaptionResult:
        with self._changed:
            while not self._is_ready():
                if self._error:
                    raise self._error
                self._changed.wait()
            result = self._results.pop(self._taken if self._ordered else next(iter(self._results)))
        self._taken += 1
        self._bytes -= self._sizes.pop(result.index)
        return result

    def _put(self, result: CaptionResult) -> None:
        with self._changed:
            self._results[result.index] = result
            self._changed.notify()

    # ---- in the pool's thread ----

    def receive(self, position: int, ending: Ending) -> None:
        if not self._over:
            self._put(_result(position, self._images.pop(position), ending.item, ending))

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify()
