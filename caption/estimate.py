"""Estimate: about how long a run would take and what it would write, from what earlier runs into the folder did."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import orjson

from caption.errors import Damaged
from caption.figures import clock, images_a_second, in_bytes
from caption.item import Item
from caption.messages import Result
from caption.outputs.rows import CAPTIONS, caption_row
from caption.runfile import read_run_file
from checkpoint import View

INDEX_BYTES = 25  # a row takes this much beside itself
_TAIL = 1 << 18  # bytes of stats.jsonl that are looked at
_LONGEST_GAP = 60.0  # seconds between two entries of one run
_LETTERS_A_TOKEN = 4


class Rate(NamedTuple):
    """What an earlier run did: images a second of so many workers, and which run it was."""

    images_a_second: float
    workers: int
    run: str


def time_needed(out: Path, images: int, workers: int, size: int | None) -> str:
    """In words. size: bytes of the pictures, or None."""
    rate = earlier_rate(out)
    if rate is None:
        read = f"{in_bytes(size)} of pictures" if size is not None else f"{images:,} pictures"
        return (
            f"not known, because no run into {out} has captioned anything yet; {read} to read. "
            "A run with --limit 100 measures it"
        )
    pace = rate.images_a_second * workers / rate.workers
    then = f"{rate.workers} worker{'s' if rate.workers > 1 else ''}"
    than = "" if workers == rate.workers else f"; {then} then, {workers} now"
    return f"about {clock(images / pace)} and the loading of the model, at {images_a_second(pace)} by {rate.run}{than}"


def space_needed(view: View | None, images: int, example: Item, max_new_tokens: int) -> str:
    """In words: what the rows and their index would take."""
    rows = view.committed.get(CAPTIONS) if view else None
    if rows and rows.rows:
        each = rows.bytes / rows.rows
        return f"about {in_bytes(images * (each + INDEX_BYTES))} in rows, of {each:,.0f} bytes each as those so far"
    empty = Result((0, 0), "", None, "stop", max_new_tokens, 1000, 1000, 1.0, ())
    most = len(caption_row(example, empty)) + (example.max_new_tokens or max_new_tokens) * _LETTERS_A_TOKEN
    return (
        f"at most about {in_bytes(images * (most + INDEX_BYTES))} in rows, if each caption has all its tokens "
        f"(of {_LETTERS_A_TOKEN} letters)"
    )


def earlier_rate(out: Path) -> Rate | None:
    """Of the largest run into this folder that came to its end; else of those that were killed, by their figures."""
    try:
        runs = read_run_file(out)["runs"]
    except (Damaged, OSError):
        runs = []
    found = []
    for run in runs:
        totals = run.get("totals") or {}
        captioned, seconds = totals.get("captioned", 0), totals.get("seconds", 0.0)
        if captioned and seconds:
            name = f"the run of {run.get('begin')} ({captioned:,} images)"
            found.append((captioned, Rate(captioned / seconds, len(run.get("seats") or "1"), name)))
    return max(found)[1] if found else _rate_of_figures(out / "stats.jsonl")


def _rate_of_figures(path: Path) -> Rate | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    totals, workers = [], set()
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:  # the first was cut, the last may be torn
            continue
        if not isinstance(row, dict):
            continue
        if "worker" in row:
            workers.add(row["worker"])
        elif "images" in row:
            totals.append((row["time"], row["images"]))
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(totals)]
    steps = [(seconds, images) for seconds, images in steps if 0 < seconds < _LONGEST_GAP and images >= 0]
    images, seconds = sum(step[1] for step in steps), sum(step[0] for step in steps)
    return Rate(images / seconds, len(workers) or 1, "the latest figures in stats.jsonl") if images else None
