"""Host: the part of ``--launcher ray`` that is on a worker's node: an actor that starts the worker as its child there,
and passes bytes between it and the coordinator. It holds the GPU for the worker."""

from __future__ import annotations

import os
import select
import threading
import time
from pathlib import Path
from typing import NamedTuple

from caption.devices import Seat
from caption.gpus import visible_gpus
from caption.monitor import Load, Monitor
from caption.process import LAST_SECONDS, Child
from caption.snapshot import WorkerSnapshot

AT_ONCE = 1 << 16  # bytes in one call; Ray carries up to 100 KB without its store of objects
_NEWS_EVERY = 1.0  # seconds between words and figures


class Said(NamedTuple):
    """What came from the worker.

    Attributes:
        data: bytes of its channel; none: it has ended.
        words: lines that it has printed.
        load: figures of it under the name "", and of its GPUs; None between two readings.
    """

    data: bytes
    words: list[str]
    load: Load | None


class Ending(NamedTuple):
    """How a worker's process ended: as ``Child.last_words`` says it, and whether a SIGKILL has ended it."""

    words: str
    killed: bool


class Host:
    """Each method has a thread of its own in the actor, so one that waits holds up no other.

    Args:
        device: of the worker; on "cuda" it gets the GPUs that the actor has.
    """

    def __init__(self, module: str, environment: dict[str, str | None], device: str):
        born: list[Child | OSError] = []
        started = threading.Event()

        def parent() -> None:  # the kernel ends the child with the thread that started it, and Ray's threads may end
            try:
                born.append(Child(module, environment))
            except OSError as error:
                born.append(error)
            started.set()
            threading.Event().wait()

        threading.Thread(target=parent, name="parent", daemon=True).start()
        started.wait()
        if isinstance(born[0], OSError):
            raise born[0]
        self._child = born[0]
        self._pipe = self._child.channel.fileno()
        self._news_at = 0.0
        gpus = tuple(gpu.visible for gpu in visible_gpus()) if device == "cuda" else ()
        self._monitor = Monitor([Seat("", device, ",".join(gpus), None, 1)], Path.cwd())
        self._worker = WorkerSnapshot("", "ready", "", pid=self._child.pid, gpus=gpus)

    def ready(self) -> None:
        """Comes back when the actor has its place, and has started the worker."""

    def read(self) -> Said:
        """Waits for the worker's next bytes."""
        select.select([self._pipe], [], [])
        try:
            data = os.read(self._pipe, AT_ONCE)
        except ConnectionError:  # it ended with something unread
            data = b""
        if not data:
            self._child.join(LAST_SECONDS)
            return Said(data, self._child.new_words(), None)
        if (now := time.monotonic()) - self._news_at < _NEWS_EVERY:
            return Said(data, [], None)
        self._news_at = now
        words = self._child.new_words()
        self._child.forget_words()
        return Said(data, words, self._monitor.read([self._worker]))

    def write(self, data: bytes) -> None:
        """Returns when the worker's socket has taken all, or it has closed its end."""
        while data:
            select.select([], [self._pipe], [])
            try:
                data = data[os.write(self._pipe, data) :]
            except ConnectionError:
                return

    def ending(self) -> Ending:
        """After ``read`` came to its end."""
        return Ending(self._child.last_words(), self._child.killed)

    def kill(self) -> None:
        self._child.kill()

    def stopped(self) -> bool:
        return self._child.stopped()

    def whereabouts(self) -> str:
        return self._child.whereabouts()
