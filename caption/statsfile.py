"""StatsFile: ``stats.jsonl``, figures over time for people and reports; no run reads it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import orjson

from caption.crew import Member
from caption.monitor import Monitor
from caption.schedule import Rounds

_SHORTEST = 1.0  # seconds between two entries
_LONGEST = 10.0  # ... while nothing gets done


class StatsFile:
    """Appends an entry at most once a second: a row for the run, then one a worker."""

    def __init__(self, out: Path, monitor: Monitor):
        path = out / "stats.jsonl"
        self._file = path.open("a+b", buffering=0)
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":  # torn by a crash: the next row must not be glued to it
                self._file.write(b"\n")
        self._monitor = monitor
        self._last, self._images = time.monotonic(), 0

    def add(self, done: int, failed: int, members: list[Member], rounds: Rounds | None = None) -> None:
        """Notes the figures of this moment, if the last entry is old enough. ``rounds``: of a lockstep run."""
        now, images = time.monotonic(), done + failed
        seconds = now - self._last
        if seconds < _SHORTEST or (images == self._images and seconds < _LONGEST):
            return
        load = self._monitor.read()
        rows = [
            {
                "time": round(time.time(), 3),
                "images": images,
                "images_per_second": round((images - self._images) / seconds, 3),
                "failures": failed,
                "cpu_percent": load.cpu,
                "ram_used": load.ram_used,
                "ram_total": load.ram_total,
            }
        ]
        if rounds:
            rows[0] |= {"round": rounds.begun, "drift": round(rounds.last, 3)}
        for member in members:
            row = {"time": rows[0]["time"], "worker": member.name, "state": member.state}
            if member.stats:
                seconds = {name: round(value, 3) for name, value in member.seconds.items()}
                row |= {"stage": member.stats.stage, "seconds": seconds}
            if gpu := load.of(member.seat):
                row |= {"gpu_percent": gpu.use, "gpu_memory_used": gpu.used, "gpu_memory_total": gpu.total,
                        "gpu_celsius": gpu.celsius}  # fmt: skip
            rows.append(row)
        self._file.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        self._last, self._images = now, images

    def close(self) -> None:
        self._file.close()
