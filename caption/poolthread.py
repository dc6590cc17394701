"""PoolThread: the thread of a CaptionPool that feeds its workers, for as many calls as there are at a time."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from caption.crew import Crew
from caption.devices import Seat
from caption.dispatch import Dispatcher, Ending
from caption.errors import CaptionError
from caption.given import PictureMemory
from caption.item import Item
from caption.line import Line
from caption.messages import Setup
from caption.precision import Precision
from caption.settings import Settings
from caption.stall import watch_for

_POLL = 0.2  # seconds; a new item ends the wait
_LEAST_AHEAD = 64  # items that a call reads ahead
_ROUNDS_AHEAD = 4  # ... or this many for each place in an engine: two wait there, one is inside, one is out of order
_log = logging.getLogger("caption")


class Asker(Protocol):
    """One call of CaptionPool.caption. Both methods are called by the pool's thread."""

    def receive(self, position: int, ending: Ending) -> None: ...

    def fail(self, error: BaseException) -> None: ...


class PoolThread:
    """Workers are started by this thread and end with it (see ``process.leave_stopping_to_parent``). ``submit``,
    ``cancel`` and ``close`` are for any thread; they take no lock, so that garbage collection may call them.

    Args:
        setup: makes the first message for a seat's worker.
        memory: where pictures lie that are no files; closed with this.

    Attributes:
        ahead: items that a call should read ahead, so that no engine runs dry.
    """

    def __init__(
        self,
        settings: Settings,
        seats: Sequence[Seat],
        setup: Callable[[Seat], Setup],
        precision: Precision,
        memory: PictureMemory,
    ):
        self._seats, self._setup, self._memory = seats, setup, memory
        self._settings, self._precision = settings, precision
        self._line = Line([seat.name for seat in seats])
        self._crew = Crew(seats, setup, watch_for(settings, seats[0].device))
        self._dispatcher = Dispatcher(
            settings, self._line, self._crew, precision, _log.warning, remedy="mend this and make a new pool"
        )
        self._inbox: deque[tuple[Asker, int, Item | None]] = deque()  # None: the call is over
        self._wanted: dict[int, tuple[Asker, int]] = {}  # item index -> who asked, and as which of its images
        self._numbers = itertools.count()
        self._error: BaseException | None = None
        self._closing = False
        self._process = os.getpid()
        self.ahead = _LEAST_AHEAD
        self._thread = threading.Thread(target=self._run, name="caption-pool", daemon=True)
        self._thread.start()

    def submit(self, asker: Asker, position: int, item: Item) -> None:
        """The item is done as soon as its turn comes. Raises what ended the pool, if it has ended."""
        if os.getpid() != self._process:
            raise RuntimeError("this pool belongs to the process that this one was forked from: make one here")
        self._inbox.append((asker, position, item))
        if self._error:  # looked at last: an end before this has not seen the item
            raise self._error
        self._crew.wake()

    def cancel(self, asker: Asker) -> None:
        """It wants no more. What is in work ends unheard."""
        self._inbox.append((asker, 0, None))
        self._crew.wake()

    def close(self) -> None:
        """Ends all workers, at once. Nothing happens in a process that was forked off."""
        if os.getpid() != self._process:
            return
        self._closing = True
        self._crew.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # ---- in the thread ----

    def _run(self) -> None:
        error: BaseException = RuntimeError("the pool is closed")
        try:
            while not self._closing:
                for ending in self._dispatcher.collect(_POLL):
                    self._deliver(ending)
                self._read_inbox()
                self._dispatcher.hand_out()
                self.ahead = max(_LEAST_AHEAD, _ROUNDS_AHEAD * self._dispatcher.places)
        except CaptionError as failure:
            error = failure
        except Exception as failure:  # a thread must not end in silence: its callers would wait for ever
            _log.exception("the pool broke down")
            error = RuntimeError(f"the pool broke down: {type(failure).__name__}: {failure}")
        finally:
            self._end(error)
            self._crew.close()
            self._memory.close()

    def _read_inbox(self) -> None:
        while self._inbox:
            asker, position, item = self._inbox.popleft()
            if item is None:
                self._forget(asker)
                continue
            index = next(self._numbers)
            self._wanted[index] = asker, position
            self._line.extend([item._replace(index=index)])

    def _forget(self, asker: Asker) -> None:
        for item in self._line.remove(lambda item: self._wanted[item.index][0] is asker):
            del self._wanted[item.index]
            self._memory.drop(item.where)

    def _deliver(self, ending: Ending) -> None:
        asker, position = self._wanted.pop(ending.item.index)
        self._memory.drop(ending.item.where)
        asker.receive(position, ending)

    def _end(self, error: BaseException) -> None:
        self._error = error
        askers = [asker for asker, _ in self._wanted.values()]
        while self._inbox:
            askers.append(self._inbox.popleft()[0])
        for asker in askers:
            asker.fail(error)
