"""Thumbnails: small pictures for the page, made in processes that a bad picture may crash, hang or fill."""

from __future__ import annotations

import base64
import contextlib
import io
import multiprocessing
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from caption.errors import DecoderCrashed, DecoderHung, ItemError, Unreadable
from caption.image import DecodeOptions, read_image
from caption.process import leave_stopping_to_parent, stop_signals_blocked
from caption.where import Where

_PATIENCE = 20.0  # seconds for one picture
_BEGINNING = 60.0  # ... and for a process to come up
_PROCESSES = 4
_MEMORY = 1 << 30  # bytes of address space that one process may have
_DECODED = 50_000_000  # pixels; a larger picture is not shown
_TRIES = ((320, 75), (320, 50), (240, 40), (160, 30), (96, 20))  # longest side in pixels, quality
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
        connection, process = getattr(self._mine, "child", None) or self._start()
        try:
            connection.send(where)
            if connection.poll(_PATIENCE):
                return connection.recv()
            problem = Missing("decoding it took too long", DecoderHung.__name__)
        except (EOFError, OSError):
            problem = Missing("the process that decoded it died", DecoderCrashed.__name__)
        process.kill()
        self._mine.child = None
        return problem

    def _start(self):
        spawn = multiprocessing.get_context("spawn")
        connection, its_end = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(its_end, self._most), daemon=True)
        with stop_signals_blocked():
            process.start()
        its_end.close()
        self._mine.child = connection, process
        self._all.append((connection, process))
        if connection.poll(_BEGINNING):
            with contextlib.suppress(EOFError):
                connection.recv()
        return self._mine.child

    def close(self) -> None:
        for connection, process in self._all:
            connection.close()
            process.kill()
            process.join()


def _serve(connection, most: int) -> None:
    """A child: a place in, a thumbnail or the reason why not out, until the other end closes."""
    leave_stopping_to_parent(with_parent=False)  # it ends with the connection
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        connection.send(None)
        while True:
            connection.send(_made(connection.recv(), most))


def _made(where: Where, most: int) -> Thumbnail | Missing:
    side = _TRIES[0][0]
    try:
        picture, _ = read_image(where, DecodeOptions(side * side, _DECODED))
        content, picture = _encoded(picture, most)
    except ItemError as error:
        return Missing(str(error), type(error).__name__)
    except (OSError, MemoryError, ValueError) as error:
        return Missing(f"it can't be shown: {error}", Unreadable.__name__)
    return Thumbnail(f"data:image/webp;base64,{base64.b64encode(content).decode()}", *picture.size)


def _encoded(picture: Image.Image, most: int) -> tuple[bytes, Image.Image]:
    """As WebP in at most so many bytes, or as small as it gets."""
    for side, quality in _TRIES:
        picture.thumbnail((side, side), reducing_gap=2)
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality)
        if file.tell() <= most:
            break
    return file.getvalue(), picture
