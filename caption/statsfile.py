"""StatsFile: ``stats.jsonl``, figures over time for people and reports; no run reads it.

An entry is a row for the run, then one a worker with the same ``time``. Entries come every ``--stats-every`` images,
but at most one a second and at least one in ten seconds; a last one in any case when the workers have ended.

The run's row: ``time`` (Unix), ``run`` (1 for the folder's first; its entry in ``run.json`` is ``runs[run - 1]``),
``seconds`` (since its first worker began, 0 before), ``total`` (images of the input, null while they are counted),
``before`` (of these, done before this run), ``images`` (ended in this run, in one way or the other), ``failures`` and
``flagged`` (of these), ``errors`` and ``flags`` (counts by name), ``images_per_second`` (since the entry before),
``images_per_second_minute``, ``images_per_second_run``, ``cpu_percent`` (of all cores), ``ram_used``, ``ram_total``,
``disk_free`` and ``disk_to_come`` (bytes; to come: what the rest of the captions will take, 0 if not known yet); of a
lockstep run also ``round`` (which it is) and ``drift`` (seconds from its first worker to its last in the one before).

A worker's row: ``time``, ``worker`` (``gpu0``, ``cpu1``, …), ``state`` (of its seat, as in crew.Member), ``stage``
(loading, waiting, preprocessing, generating; the state while that is not ready), ``done`` and ``failed`` (images of
this run), ``images_per_second`` (over the last minute), ``seconds`` (spent so far in this run, by stage, as in
messages.Stats; ``starved`` and ``late`` are parts of ``generating``), ``cpu_percent`` (of one core; its loaders are not
counted) and ``ram_used`` of its process; of a GPU that answers also ``gpu_percent``, ``gpu_memory_used``,
``gpu_memory_total``, ``gpu_celsius`` (of several: the mean, the sums, the highest).

All of a run's counts begin at 0 with each run. Fields that could not be read are left out.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import orjson

from caption.monitor import Load
from caption.snapshot import Snapshot, WorkerSnapshot

NAME = "stats.jsonl"
_SHORTEST = 1.0  # seconds between two entries
_LONGEST = 10.0  # ... while little gets done


class StatsFile:
    """Appends entries.

    Args:
        run: number of the run.
        every: images between two entries.
    """

    def __init__(self, out: Path, run: int, every: int):
        self._file = (out / NAME).open("a+b", buffering=0)
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":  # torn by a crash: the next row must not be glued to it
                self._file.write(b"\n")
        self._run, self._every = run, every
        self._last, self._images = time.monotonic(), 0

    def due(self, images: int) -> bool:
        """Whether it is time for an entry."""
        seconds = time.monotonic() - self._last
        return seconds >= _LONGEST or (seconds >= _SHORTEST and images - self._images >= self._every)

    def add(self, snapshot: Snapshot, load: Load) -> None:
        """Notes the figures of this moment."""
        now = time.monotonic()
        pace = (snapshot.images - self._images) / (now - self._last) if now > self._last else 0.0
        at = round(time.time(), 3)
        rows = [{"time": at, "run": self._run} | _run_row(snapshot, pace, load)]
        rows += [{"time": at, "worker": worker.name} | _worker_row(worker, load) for worker in snapshot.workers]
        self._file.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        self._last, self._images = now, snapshot.images

    def close(self) -> None:
        self._file.close()


def _run_row(snapshot: Snapshot, pace: float, load: Load) -> dict[str, Any]:
    row = {
        "seconds": round(snapshot.seconds, 3),
        "total": snapshot.total,
        "before": snapshot.before,
        "images": snapshot.images,
        "failures": snapshot.failed,
        "flagged": snapshot.flagged,
        "errors": dict(snapshot.errors),
        "flags": dict(snapshot.flags),
        "images_per_second": round(pace, 3),
        "images_per_second_minute": round(snapshot.rate, 3),
        "images_per_second_run": round(snapshot.whole_rate, 3),
        "disk_to_come": snapshot.bytes_to_come,
    }
    if snapshot.rounds:
        row |= {"round": snapshot.rounds.begun, "drift": round(snapshot.rounds.last, 3)}
    if machine := load.machine:
        row |= {"cpu_percent": machine.cpu, "ram_used": machine.ram_used, "ram_total": machine.ram_total,
                "disk_free": machine.disk_free}  # fmt: skip
    return row


def _worker_row(worker: WorkerSnapshot, load: Load) -> dict[str, Any]:
    row = {
        "state": worker.state,
        "stage": worker.stage,
        "done": worker.done,
        "failed": worker.failed,
        "images_per_second": round(worker.rate, 3),
        "seconds": {name: round(value, 3) for name, value in worker.seconds.items()},
    }
    if load.machine and (process := load.machine.workers.get(worker.name)):
        row |= {"cpu_percent": process.cpu, "ram_used": process.ram}
    if gpu := load.of_gpus(worker):
        figures = {"gpu_percent": gpu.use, "gpu_memory_used": gpu.used, "gpu_memory_total": gpu.total,
                   "gpu_celsius": gpu.celsius}  # fmt: skip
        row |= {name: value for name, value in figures.items() if value is not None}
    return row
