"""Thumbnails: small pictures for the page, from processes that are replaced when a picture breaks them."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from caption.errors import DecoderCrashed, DecoderHung
from caption.process import Child
from caption.where import Where

_PATIENCE = 20.0  # seconds for one picture
_BEGINNING = 60.0  # ... and for a process to come up
_PROCESSES = 4
_SMALLEST = 2048  # bytes


class Thumbnail(NamedTuple):
    """Attributes:
    uri: the picture itself, as a data URI.
    width, height: in pixels.
    """

    uri: str
    width: int
    height: int


class Missing(NamedTuple):
    """No thumbnail: why not, and the class of caption.errors.ItemError."""

    reason: str
    error: str


def thumbnails(places: Mapping[str, Where], room: int) -> dict[str, Thumbnail | Missing]:
    """Thumbnails by the keys of ``places``, in ``room`` bytes together."""
    if not places:
        return {}
    most = max(_SMALLEST, room * 3 // 4 // len(places))  # base64 makes 4 of 3
    processes = min(_PROCESSES, os.cpu_count() or 1, len(places))
    with contextlib.closing(_Children(most)) as children, ThreadPoolExecutor(processes) as threads:
        return dict(zip(places, threads.map(children.ask, places.values())))


class _Children:
    """One process a thread; one that does not answer is replaced."""

    def __init__(self, most: int):
        self._most, self._mine, self._all = most, threading.local(), []

    def ask(self, where: Where) -> Thumbnail | Missing:
        child = getattr(self._mine, "child", None) or self._start()
        child.channel.send(where)
        answers = _answers(child, _PATIENCE)
        if answers:
            return answers[0]
        ended = child.channel.ended
        self._mine.child = child.close()
        if ended:
            return Missing("the process that decoded it died", DecoderCrashed.__name__)
        return Missing("decoding it took too long", DecoderHung.__name__)

    def _start(self) -> Child:
        child = self._mine.child = Child("caption.report.thumbnailer", {"OMP_NUM_THREADS": "1"})
        self._all.append(child)
        child.channel.send(self._most)
        _answers(child, _BEGINNING)
        return child

    def close(self) -> None:
        for child in self._all:
            child.close()


def _answers(child: Child, patience: float) -> list:
    """What the child has to say; [] if it died or took longer than so many seconds."""
    deadline = time.monotonic() + patience
    answers: list = []
    while not (answers or child.channel.ended) and (left := deadline - time.monotonic()) > 0:
        select.select([child.channel], [], [], left)
        answers = child.channel.receive()
    return answers
