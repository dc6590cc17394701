"""Progress: bars on a terminal, a line from time to time elsewhere. A stream that fails or stalls never holds up a run.

tqdm and rich count the lines that they have drawn; a terminal that gets narrower wraps them into more, and what they
leave behind piles up. Here the screen is begun anew when lines have been wrapped, with the latest sentences above the
bars. Between two drawings the cursor rests on the first letter of the block.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from typing import TextIO

from caption import bars
from caption.console import harmless, say
from caption.figures import clock, images_a_second
from caption.monitor import Load
from caption.snapshot import Snapshot

_SHORTEST, _LONGEST = 5.0, 60.0  # seconds between lines without a terminal; they grow apart as the run grows long
_GROWTH = 20
_COLUMNS, _ROWS = 80, 24  # of a terminal that does not say
_MOST_UNSAID = 100  # sentences kept for a stream that takes nothing for now
_RECENT = 5  # sentences that are said again where a screen is begun anew
_WIPE = "\r\x1b[J"  # from the cursor to the end of the screen
_ANEW = f"{_WIPE}\x1b[H\x1b[2J"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"


class Progress:
    """Shows snapshots; a stream that is gone (a closed terminal) or was never there is forgotten, never an error.

    Args:
        stream: where to show; bars if it is a terminal that can move its cursor. None: nowhere.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = _Stream(stream)
        self._bars = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._ascii = not self._stream.can_show("█°")
        self._unsaid: deque[str] = deque(maxlen=_MOST_UNSAID)
        self._said: deque[str] = deque(maxlen=_RECENT)
        self._drawn = self._widest = 0  # lines of the block on the screen, and the letters of the longest
        self._begin = self._next_line = time.monotonic()

    def show(self, snapshot: Snapshot, load: Load, last: bool = False) -> None:
        """Shows these figures. last: of all, to be shown in any case; the total stays, and the workers' lines go."""
        if self._stream.gone:
            return
        if self._bars:
            columns, rows = self._stream.size()
            shape = max(1, columns - 1), max(1, rows - 1)
            lines = bars.totals(snapshot, shape[0], self._ascii) if last else None
            lines = lines or bars.draw(snapshot, load, *shape, self._ascii)
            if last or self._stream.takes():
                self._draw(lines, wrapped=columns < self._widest)
            return
        now = time.monotonic()
        if last or (now >= self._next_line and snapshot.workers):
            self._next_line = now + min(_LONGEST, max(_SHORTEST, (now - self._begin) / _GROWTH))
            self.say(line(snapshot) + ("" if last else _workers(snapshot, load, self._ascii)))
        self._catch_up()

    def say(self, text: str) -> None:
        """A line of text, above the bars."""
        self._unsaid.append(self._stream.shown(harmless(text)))
        self._catch_up()

    def announce(self, text: str) -> None:
        """A line of the banner: above the bars, or on standard output where there are none."""
        if self._bars:
            self.say(text)
        else:
            say(text)

    def close(self) -> None:
        """Leaves the cursor below what was shown last."""
        if self._drawn:
            self._stream.write("\n" * self._drawn)
            self._drawn = 0

    def _catch_up(self) -> None:
        if not self._unsaid or not self._stream.takes():
            return
        self._stream.write((_WIPE if self._drawn else "") + self._to_say())
        self._drawn = self._widest = 0  # the next figures draw it anew, below

    def _to_say(self, again: bool = False) -> str:
        """again: the latest that were said before, too."""
        lines = [*(self._said if again else ()), *self._unsaid]
        self._said += self._unsaid
        self._unsaid.clear()
        return "".join(f"{line}\n" for line in lines)

    def _draw(self, lines: list[str], wrapped: bool) -> None:
        wipe = _ANEW if wrapped else _WIPE if self._unsaid else ""
        said = self._to_say(again=wrapped)
        block = "\n".join(f"{line}\x1b[K" for line in lines)
        up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        self._stream.write(f"{wipe}{said}{_NO_WRAP}\r{block}\x1b[J{up}\r{_WRAP}")
        self._drawn, self._widest = len(lines), max(map(len, lines))


def line(snapshot: Snapshot) -> str:
    """All of it in one line, of any width."""
    ended = snapshot.before + snapshot.images
    figures = [
        f"{ended:,}/{'?' if snapshot.total is None else format(snapshot.total, ',')} images",
        f"{images_a_second(snapshot.rate)} ({images_a_second(snapshot.whole_rate)} in all)",
        f"{snapshot.failed:,} failed",
        f"{snapshot.flagged:,} flagged",
    ]
    if snapshot.seconds_left is not None:
        figures.append(f"{clock(snapshot.seconds_left)} left")
    return ", ".join(figures) + bars.rounds(snapshot)


def _workers(snapshot: Snapshot, load: Load, ascii: bool) -> str:
    workers = []
    for worker in snapshot.workers[:8]:
        gpu = load.of_gpus(worker)
        words = [worker.name, worker.stage, *(bars.gpu_figures(gpu, ascii) if gpu else ())]
        workers.append(" ".join(filter(None, words)))
    return f" ({', '.join(workers)})"


class _Stream:
    """What is written to; a stream that fails, or is not there, is forgotten: from then on nothing is done at all."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    @property
    def gone(self) -> bool:
        return self._stream is None

    def isatty(self) -> bool:
        return bool(self._call("isatty"))

    def can_show(self, letters: str) -> bool:
        return self.shown(letters) == letters

    def shown(self, text: str) -> str:
        """The text with what the stream has no letters for escaped."""
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)

    def size(self) -> tuple[int, int]:
        """Columns and rows of the terminal now."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError, AttributeError):  # io.UnsupportedOperation is both of the first
            return _COLUMNS, _ROWS
        return size.columns or _COLUMNS, size.lines or _ROWS

    def takes(self) -> bool:
        """Whether a write would return at once: a stopped terminal or a pipe that nobody reads holds one up."""
        if self._stream is None:
            return False
        try:
            return bool(select.select([], [self._stream.fileno()], [], 0)[1])
        except (OSError, ValueError):
            return True  # no file at all, or one that fails: the write finds out

    def write(self, text: str) -> None:
        self._call("write", text)
        self._call("flush")

    def _call(self, method: str, *args):
        if self._stream is None:
            return None
        try:
            return getattr(self._stream, method)(*args)
        except (OSError, ValueError):
            self._stream = None
