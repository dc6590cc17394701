"""Progress: bars on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

_LINE_EVERY = 5.0  # seconds
_RATE_SPAN = 60.0  # seconds over which the shown rate is measured


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
    """

    total: int | None
    before: int
    done: int
    failed: int
    workers: Sequence[WorkerProgress]


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
    """Shows snapshots; a stream that is gone (a closed terminal) is forgotten, never an error.

    Args:
        stream: where to show; bars if it is a terminal.
    """

    def __init__(self, workers: Sequence[str], stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._rate = Rate()
        self._next_line = 0.0
        self._bars: list[tqdm] = []
        self._gone = False
        if self._stream.isatty():
            self._safely(self._open_bars, workers)

    def show(self, snapshot: Snapshot) -> None:
        """Takes the newest figures; cheap enough to call several times a second."""
        now = time.monotonic()
        done = snapshot.done + snapshot.failed
        rate = self._rate.add(now, done)
        left = None if snapshot.total is None else snapshot.total - snapshot.before - done
        time_left = f", {clock(left / rate)} left" if left and rate > 0 else ""
        if self._bars:
            self._safely(self._move_bars, snapshot, rate, time_left)
        elif now >= self._next_line and snapshot.workers:
            self._next_line = now + _LINE_EVERY
            total = "?" if snapshot.total is None else f"{snapshot.total:,}"
            stages = ", ".join(f"{worker.name} {worker.stage}" for worker in snapshot.workers[:8])
            self.say(
                f"{snapshot.before + done:,}/{total} images, {images_a_second(rate)}, "
                f"{snapshot.failed:,} failed{time_left} ({stages})"
            )

    def say(self, text: str) -> None:
        """A line of text, above the bars."""
        if self._bars:
            self._safely(tqdm.write, text, self._stream)
        else:
            self._safely(print, text, file=self._stream, flush=True)

    def close(self) -> None:
        for bar in reversed(self._bars):
            self._safely(bar.close)
        self._bars = []

    def _open_bars(self, workers: Sequence[str]) -> None:
        total = tqdm(
            total=None, desc="total", position=0, file=self._stream, dynamic_ncols=True, leave=True, mininterval=0.2,
            bar_format="{desc:<6} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}", unit_scale=False,
        )  # fmt: skip
        self._bars = [total]
        for position, name in enumerate(workers, 1):
            self._bars.append(
                tqdm(
                    total=None,
                    desc=name,
                    position=position,
                    file=self._stream,
                    dynamic_ncols=True,
                    leave=False,
                    mininterval=0.2,
                    bar_format="{desc}",
                )
            )

    def _move_bars(self, snapshot: Snapshot, rate: float, time_left: str) -> None:
        total, *rest = self._bars
        total.total = snapshot.total or None
        total.n = snapshot.before + snapshot.done + snapshot.failed
        total.set_postfix_str(f"{images_a_second(rate)}, {snapshot.failed:,} failed{time_left}", refresh=True)
        share = max((worker.done + worker.failed for worker in snapshot.workers), default=0)
        for bar, worker in zip(rest, snapshot.workers):
            figures = f"{worker.done:,} done, {worker.failed:,} failed, {worker.stage}"
            bar.set_description_str(f"{worker.name:<6} {_gauge(worker, share)} {figures}")

    def _safely(self, action, *args, **options) -> None:
        if self._gone:
            return
        try:
            action(*args, **options)
        except (OSError, ValueError):
            self._gone = True


def _gauge(worker: WorkerProgress, most: int) -> str:
    """A small bar beside the worker's figures: its images against those of the worker with the most."""
    cells = round(10 * (worker.done + worker.failed) / most) if most else 0
    return "▮" * cells + "▯" * (10 - cells)
