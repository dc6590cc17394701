"""Host: the part of ``--launcher ray`` that is on a worker's node: an actor that starts the worker as its child there,
and passes bytes between it and the coordinator. It holds the GPU for the worker."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import NamedTuple

from caption.process import LAST_SECONDS, Child

AT_ONCE = 1 << 16  # bytes in one call; Ray carries up to 100 KB without its store of objects
_WORDS_EVERY = 1.0  # seconds


class Said(NamedTuple):
    """What came from the worker.

    Attributes:
        data: bytes of its channel; none: it has ended.
        words: lines that it has printed.
    """

    data: bytes
    words: list[str]


class Ending(NamedTuple):
    """How a worker's process ended: as ``Child.last_words`` says it, and whether a SIGKILL has ended it."""

    words: str
    killed: bool


class Host:
    """Each method has a thread of its own in the actor, so one that waits holds up no other."""

    def __init__(self, module: str, environment: dict[str, str | None]):
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
        self._words_at = 0.0

    def read(self) -> Said:
        """Waits for the worker's next bytes."""
        select.select([self._pipe], [], [])
        try:
            data = os.read(self._pipe, AT_ONCE)
        except ConnectionError:  # it ended with something unread
            data = b""
        words, now = [], time.monotonic()
        if not data or now - self._words_at >= _WORDS_EVERY:
            if not data:
                self._child.join(LAST_SECONDS)
            words, self._words_at = self._child.new_words(), now
            if data:
                self._child.forget_words()
        return Said(data, words)

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
