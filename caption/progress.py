"""Progress: bars on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

from caption.console import say
from caption.schedule import Rounds

_DRAW_EVERY = 0.2  # seconds between drawings of the bars
_LINE_EVERY = 5.0  # seconds between lines without a terminal
_RATE_SPAN = 60.0  # seconds over which the shown rate is measured
_TOTAL = "total {percentage:3.0f}% |{bar}| {figures}"
_LEAST_BAR = 5  # columns; the bar goes before a figure does
_COLUMNS = 80  # of a terminal that does not say


@dataclass(frozen=True)
class WorkerProgress:
    name: str
    stage: str
    done: int
    failed: int


@dataclass(frozen=True)
class Snapshot:
    """Attributes:
    total: items of the input, or None while they are counted.
    before: items done before this run.
    done, failed: items of this run.
    rounds: of a lockstep run.
    """

    total: int | None
    before: int
    done: int
    failed: int
    workers: Sequence[WorkerProgress]
    rounds: Rounds | None = None


class Rate:
    """Images a second over the last minute."""

    def __init__(self):
        self._points: deque[tuple[float, int]] = deque()

    def add(self, now: float, count: int) -> float:
        """Notes that ``count`` images are done at the time ``now``; returns the rate."""
        self._points.append((now, count))
        while now - self._points[0][0] > _RATE_SPAN and len(self._points) > 2:
            self._points.popleft()
        seconds, images = now - self._points[0][0], count - self._points[0][1]
        return images / seconds if seconds > 0 else 0.0


def clock(seconds: float) -> str:
    """3:07 or 2:03:07 or 4 d 02:03."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02}:{minute:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def images_a_second(rate: float) -> str:
    return f"{rate:.2f}/s" if rate < 10 else f"{rate:,.0f}/s"


class Progress:
    """Shows snapshots; a stream that is gone (a closed terminal) or was never there is forgotten, never an error.

    Args:
        stream: where to show, standard error by default; bars if it is a terminal.
    """

    def __init__(self, workers: Sequence[str], stream: TextIO | None = None):
        self._stream = _Stream(stream or sys.stderr)
        self._rate = Rate()
        self._next_look = self._next_line = 0.0
        self._bars: list[tqdm] = []
        if self._stream.isatty():
            self._open_bars(workers)

    def show(self, snapshot: Snapshot, last: bool = False) -> None:
        """Takes the newest figures; draws a few times a second, however often it is called.

        last: these are the last figures, to be shown in any case.
        """
        now = time.monotonic()
        if self._stream.gone or (now < self._next_look and not last):
            return
        self._next_look = now + _DRAW_EVERY
        done = snapshot.done + snapshot.failed
        rate = self._rate.add(now, done)
        left = None if last or snapshot.total is None else snapshot.total - snapshot.before - done
        total = "?" if snapshot.total is None else f"{snapshot.total:,}"
        figures = f"{images_a_second(rate)}, {snapshot.failed:,} failed"
        if left and rate > 0:
            figures += f", {clock(left / rate)} left"
        if snapshot.rounds and snapshot.rounds.begun:
            figures += f", round {snapshot.rounds.begun:,}, drift {snapshot.rounds.last:.1f} s"
        if self._bars:
            self._move_bars(snapshot, f"{snapshot.before + done:,}/{total}, {figures}")
        elif last or (now >= self._next_line and snapshot.workers):
            self._next_line = now + _LINE_EVERY
            stages = ", ".join(f"{worker.name} {worker.stage}" for worker in snapshot.workers[:8])
            self.say(f"{snapshot.before + done:,}/{total} images, {figures}" + (f" ({stages})" if stages else ""))

    def say(self, text: str) -> None:
        """A line of text, above the bars."""
        if self._bars:
            tqdm.write(text, self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def announce(self, text: str) -> None:
        """A line of the banner: above the bars, or on standard output where there are none."""
        if self._bars:
            self.say(text)
        else:
            say(text)

    def close(self) -> None:
        for bar in reversed(self._bars):
            bar.close()
        self._bars = []

    def _open_bars(self, workers: Sequence[str]) -> None:
        """One line for all and one for each worker; they are drawn when `show` says, not when tqdm would."""
        for name in ("total", *workers):
            self._add_bar(name)

    def _add_bar(self, name: str) -> None:
        width = {"dynamic_ncols": True} if _columns(self._stream) else {"ncols": _COLUMNS}
        lines = {"file": self._stream, "bar_format": "{desc}"} | width
        position = len(self._bars)
        self._bars.append(tqdm(total=None, desc=name, position=position, leave=not position, **lines))

    def _move_bars(self, snapshot: Snapshot, figures: str) -> None:
        for worker in snapshot.workers[len(self._bars) - 1 :]:  # who came later
            self._add_bar(worker.name)
        total, *rest = self._bars
        columns = _columns(self._stream) or _COLUMNS
        total.total = snapshot.total or None
        total.n = snapshot.before + snapshot.done + snapshot.failed
        if columns - len(_TOTAL.format(percentage=100, bar="", figures=figures)) >= _LEAST_BAR:
            total.bar_format = _TOTAL.replace("{figures}", figures)
        else:
            total.bar_format = "{desc}"
        total.set_description_str(figures[:columns])
        share = max((worker.done + worker.failed for worker in snapshot.workers), default=0)
        for bar, worker in zip(rest, snapshot.workers):
            text = f"{worker.name:<6} {_gauge(worker, share)} {worker.done:,} done, {worker.failed:,} failed"
            bar.set_description_str(f"{text}, {worker.stage}"[:columns])


class _Stream:
    """What is written to; a stream that fails, or is not there, is forgotten: from then on nothing is done at all."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None)

    @property
    def gone(self) -> bool:
        return self._stream is None

    def isatty(self) -> bool:
        return bool(self._call("isatty"))

    def fileno(self) -> int:
        """For the width of the terminal."""
        if self._stream is None:
            raise OSError("the stream is gone")
        return self._stream.fileno()

    def write(self, text: str) -> None:
        self._call("write", text)

    def flush(self) -> None:
        self._call("flush")

    def _call(self, method: str, *args):
        if self._stream is None:
            return None
        try:
            return getattr(self._stream, method)(*args)
        except (OSError, ValueError):
            self._stream = None


def _columns(stream: _Stream) -> int:
    """The width of the terminal now; 0 if it does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return 0


def _gauge(worker: WorkerProgress, most: int) -> str:
    """A small bar beside the worker's figures: its images against those of the worker with the most."""
    cells = round(10 * (worker.done + worker.failed) / most) if most else 0
    return "▮" * cells + "▯" * (10 - cells)
