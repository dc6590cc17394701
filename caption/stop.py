"""Stop: what SIGINT, SIGTERM and a closed terminal mean for a run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from caption.console import say

_SAME = 2.0  # seconds in which a second SIGTERM is the first: batch systems signal a job, and its script passes it on


class StopSignals:
    """While in this context, a SIGINT or SIGTERM ends the program at once, until somebody looks after it.

    Inside ``looked_after``, the first asks for an orderly end, and the second for an end at once. Before that nothing
    is in flight, and what is on disk is safe from a kill at any instant. SIGHUP is ignored: a closed terminal does not
    stop a run.

    Attributes:
        asked: how often a stop was asked for; SIGTERMs within two seconds of the first are one.
        signal: the first signal that asked, or None.
        waited: seconds since then; 0.0 before it.
        before_exit: called with the exit code, before an end at once.
    """

    def __init__(self):
        self.asked = 0
        self.signal: signal.Signals | None = None
        self.before_exit: Callable[[int], None] = lambda _: None
        self._looked_after = False
        self._asked_at: float | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def waited(self) -> float:
        return 0.0 if self._asked_at is None else time.monotonic() - self._asked_at

    @contextlib.contextmanager
    def looked_after(self) -> Iterator[None]:
        """Inside, ``asked`` is looked at several times a second."""
        self._looked_after = True
        try:
            yield
        finally:
            self._looked_after = False

    def _ask(self, number: int, _frame: object) -> None:
        if not (self._looked_after and number == signal.SIGTERM == self.signal and self.waited < _SAME):
            self.asked += 1
        self.signal = self.signal or signal.Signals(number)
        self._asked_at = self._asked_at or time.monotonic()
        if not self._looked_after:
            say(f"Stopped by {self.signal.name}. To go on, type the same command again.")
            with contextlib.suppress(Exception):
                self.before_exit(128 + number)
            os._exit(128 + number)
