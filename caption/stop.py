"""Stop: what SIGINT, SIGTERM and a closed terminal mean for a run."""

from __future__ import annotations

import signal
import threading


class StopSignals:
    """While in this context, the first SIGINT or SIGTERM asks for an orderly end, the second for an end at once.

    SIGHUP is ignored: a closed terminal does not stop a run.

    Attributes:
        asked: how often a stop was asked for.
        signal: the first signal that asked, or None.
    """

    def __init__(self):
        self.asked = 0
        self.signal: signal.Signals | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: object) -> None:
        self.asked += 1
        self.signal = self.signal or signal.Signals(number)
