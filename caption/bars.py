"""Bars: the lines that show a run on a terminal of some width. Pure: figures in, text out."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm.std import Bar

from caption.figures import clock, images_a_second, in_bytes, percent
from caption.monitor import GpuLoad, Load
from caption.snapshot import Snapshot, WorkerSnapshot

_LEAST_BAR = 8  # columns; below it the bar goes before a figure does
_WIDEST_BAR = 100
_NAME = 6  # columns of the names, and under them of nothing


def draw(snapshot: Snapshot, load: Load, columns: int, rows: int, ascii: bool = False) -> list[str]:
    """Two lines for all, then one a worker, none longer than ``columns`` and no more than ``rows``.

    ascii: the terminal has no other letters.
    """
    lines = [_progress(snapshot, columns, ascii), _pace(snapshot, columns)]
    shown = list(snapshot.workers)
    if len(lines) + len(shown) > rows:
        shown = shown[: max(0, rows - len(lines) - 1)]
    lines += table([_cells(worker, load, ascii) for worker in shown], columns)
    if hidden := len(snapshot.workers) - len(shown):
        lines.append(f"and {hidden} more")
    return [line[:columns] for line in lines[:rows]]


def totals(snapshot: Snapshot, columns: int, ascii: bool = False) -> list[str]:
    """The first two lines alone."""
    return [line[:columns] for line in (_progress(snapshot, columns, ascii), _pace(snapshot, columns))]


def rounds(snapshot: Snapshot) -> str:
    """Of a lockstep run: which it is, and by how much the first worker was ahead of the last; else ""."""
    if not (snapshot.rounds and snapshot.rounds.begun):
        return ""
    return f", round {snapshot.rounds.begun:,}, drift {snapshot.rounds.last:.1f} s"


def gpu_figures(gpu: GpuLoad, ascii: bool = False) -> list[str]:
    """Use, memory, temperature; "" for what the driver does not say."""
    memory = ""
    if gpu.used is not None and gpu.total:
        memory = f"{gpu.used / 1e9:.1f}/{gpu.total / 1e9:.1f} GB"
    degrees = "C" if ascii else "°C"
    return [
        "" if gpu.use is None else f"{gpu.use} %",
        memory,
        "" if gpu.celsius is None else f"{gpu.celsius} {degrees}",
    ]


def table(rows: Sequence[Sequence[tuple[str, int]]], columns: int) -> list[str]:
    """Lines whose cells stand below each other; the cells of the largest ranks are left out until all fit.

    rows: of each line its cells, as text and rank; a cell has the same rank in all lines.
    """
    rows = [list(row) for row in rows]
    while rows:
        widths = [max(len(row[cell][0]) for row in rows) for cell in range(len(rows[0]))]
        if sum(widths) + 2 * (sum(width > 0 for width in widths) - 1) <= columns or len(rows[0]) == 1:
            break
        last = max(range(len(rows[0])), key=lambda cell: rows[0][cell][1])
        for row in rows:
            del row[last]
    return [
        "  ".join(
            text.rjust(width) if text[:1].isdigit() else text.ljust(width)
            for (text, _), width in zip(row, widths)
            if width
        ).rstrip()
        for row in rows
    ]


def _progress(snapshot: Snapshot, columns: int, ascii: bool) -> str:
    ended = snapshot.before + snapshot.images
    total = "?" if snapshot.total is None else f"{snapshot.total:,}"
    figures = f"{ended:,}/{total}"
    if snapshot.seconds_left is not None:
        figures += f", {clock(snapshot.seconds_left)} left"
    share = f"{percent(min(ended, snapshot.total), snapshot.total):>5}" if snapshot.total else ""
    head = f"{'total':<{_NAME}}{share} "
    width = min(_WIDEST_BAR, columns - len(head) - len(figures) - 3)
    if not snapshot.total or width < _LEAST_BAR:
        return (head if len(head) + len(figures) <= columns else "") + figures
    bar = format(Bar(min(1.0, ended / snapshot.total), charset=Bar.ASCII if ascii else Bar.UTF), str(width))
    return f"{head}|{bar}| {figures}"


def _pace(snapshot: Snapshot, columns: int) -> str:
    minute, run = images_a_second(snapshot.rate), images_a_second(snapshot.whole_rate)
    failed, flagged = f"{snapshot.failed:,} failed", f"{snapshot.flagged:,} flagged"
    ended = f"{snapshot.done:,} done, {failed}, {flagged}{rounds(snapshot)}"
    indent = " " * (_NAME + 1)
    variants = [
        f"{indent}{minute} in the last minute, {run} in the whole run, {ended}",
        f"{indent}{minute} last minute, {run} whole run, {ended}",
        f"{minute} last minute, {run} whole run, {ended}",
        f"{minute}, {run} in all, {ended}",
        f"{minute}, {failed}, {flagged}{rounds(snapshot)}",
        f"{minute}, {failed}, {flagged}",
        f"{minute}, {failed}",
    ]
    return next((text for text in variants if len(text) <= columns), variants[-1])


def _cells(worker: WorkerSnapshot, load: Load, ascii: bool) -> list[tuple[str, int]]:
    """Name, what it does, pace, and its machine's figures; then what only a wide terminal has room for."""
    use = memory = celsius = ""
    if gpu := load.of_gpus(worker):
        use, memory, celsius = gpu_figures(gpu, ascii)
    elif load.machine and not worker.gpus and (process := load.machine.workers.get(worker.name)):
        use, memory = f"{process.cpu:.0f} % CPU", in_bytes(process.ram)
    late = f"{worker.late:.0%} of the last minute without pictures" if worker.late >= 0.005 else ""
    return [
        (f"{worker.name:<{_NAME}}", 0),
        (f"{worker.stage:<13}", 1),
        (f"{images_a_second(worker.rate):>7}", 2),
        (f"{use:>5}" if use else "", 3),
        (memory, 4),
        (celsius, 5),
        (f"{worker.done:,} done, {worker.failed:,} failed", 6),
        (late, 7),
    ]
