"""Feed: from the source to the schedule, in order, once, a bounded way ahead, leaving out what is done."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

from caption.item import Item
from caption.schedule import Schedule
from caption.sources import Source

WINDOW = 65_536  # items read ahead of the workers at most
_BLOCK = 4_096  # items looked up in the record at once


class Feed:
    """Args:
        source: the input.
        limit: only so many images of it, or None.
        done: which of these ids have a row (``checkpoint.Record.done``).
        estimated: gives items their cost (``caption.cost``), where a schedule looks at it.

    Attributes:
        read: items of the input seen so far.
        skipped: those of them that were done before.
        ended: the input has been read to its end.
    """

    def __init__(
        self,
        source: Source,
        limit: int | None,
        done: Callable,
        estimated: Callable[[list[Item]], list[Item]] = list,
    ):
        self._items: Iterator[Item] = source.items(limit)
        self._done, self._estimated = done, estimated
        self.read = self.skipped = 0
        self.ended = False

    def next_items(self) -> list[Item]:
        """Reads one block on: those of its items that are not done. Sets ``ended`` at the end of the input."""
        block = list(itertools.islice(self._items, _BLOCK))
        self.read += len(block)
        self.ended = len(block) < _BLOCK
        done = self._done([item.id for item in block])
        todo = [item for item, is_done in zip(block, done, strict=True) if not is_done]
        self.skipped += len(block) - len(todo)
        return self._estimated(todo)

    def fill(self, schedule: Schedule, sort_out: Callable[[list[Item]], list[Item]] = list) -> bool:
        """Reads one block on, if the schedule has room for it; True if there may be more to read at once.

        ``sort_out`` returns those items of a block that are to be computed.
        """
        if self.ended or schedule.pending > WINDOW - _BLOCK:
            return False
        schedule.extend(sort_out(self.next_items()))
        if self.ended:
            schedule.complete()
        return not self.ended


class Count:
    """The size of the input, counted by a thread while the run has begun already.

    Attributes:
        total: items of the input, or None as long as it isn't known.
    """

    def __init__(self, source: Source, limit: int | None):
        self.total: int | None = None
        self._source, self._limit = source, limit
        threading.Thread(target=self._count, name="count", daemon=True).start()

    def _count(self) -> None:
        try:
            known = self._source.size(self._limit)
            self.total = sum(1 for _ in self._source.items(self._limit)) if known is None else known
        except Exception:
            pass  # the run reads the same input and says what is wrong with it
