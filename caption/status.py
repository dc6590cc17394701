"""``python -m caption.status OUT``: how a job stands, from another terminal or after its end. It reads only."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from caption.bars import gpu_figures, table, totals
from caption.commandline import Parser, exit_code
from caption.console import say
from caption.figures import clock, images_a_second, in_bytes
from caption.jobstate import JobState, Observer, in_words
from caption.monitor import GpuLoad
from caption.snapshot import Snapshot

_WATCH_EVERY = 2.0  # seconds
_ANEW = "\x1b[H\x1b[2J"
_SILENT = 60.0  # seconds without a sign of life that are worth a word


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or the exit code of what is wrong with the folder."""
    parser = Parser(
        prog="python -m caption.status",
        description="Say how the job of OUT stands: running, stopped, finished or died, how far, what to type next.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="output folder of a job, or a copy of it")
    parser.add_argument("--json", action="store_true", help="one object a look, for programs")
    parser.add_argument("--watch", action="store_true", help="look again every two seconds until it ends")

    def look() -> int:
        options = parser.parse_args(argv)
        return _watch(Observer(options.out), options.json, options.watch)

    return exit_code(look)


def _watch(observer: Observer, json: bool, watch: bool) -> int:
    anew = watch and not json and sys.stdout is not None and sys.stdout.isatty()
    while True:
        state = observer.look()
        text = state.as_json().decode() if json else "\n".join(describe(state, _columns()))
        listener = sys.stdout
        if anew:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.write(_ANEW)
        say(text)
        if not watch or state.state != "running" or sys.stdout is not listener:  # the pipe or terminal is gone
            return 0
        time.sleep(_WATCH_EVERY)


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns - 1


def describe(state: JobState, columns: int = 80) -> list[str]:
    """The lines for people; those with figures are no longer than ``columns``."""
    lines = [f"{state.out}: {_headline(state)}", ""]
    if state.state != "not begun":
        lines += [*_progress(state, columns), *_workers(state, columns), ""]
    if state.errors:
        lines.append(f"Failed   {_counted(state.errors)}")
    if state.flags:
        lines.append(f"Flags    {_counted(state.flags)}")
    if state.model:
        lines.append(f"Model    {state.model}")
    if state.scoring or state.scores_left:
        how = {"unfinished": "; not all are scored", "running": "; it is being scored"}.get(state.scoring or "", "")
        lines.append(f"Scores   {state.scored:,} of {state.captioned:,}, {state.not_scored:,} failed{how}")
    if state.go_on:
        done = state.state == "finished" and not state.left and not state.scores_left
        what = "Again" if done else "Go on"
        lines.append(f"{what}    {state.go_on}")
    elif state.state == "running":
        lines.append(f"Stop     kill -INT {state.pid}, on {state.host}; the same command goes on")
    while lines[-1] == "":
        lines.pop()
    return lines


def _headline(state: JobState) -> str:
    run = f"run {state.run} of this folder, process {state.pid} on {state.host}"
    said = in_words(state.state, state.exit_code)
    match state.state:
        case "running":
            silent = _ago(state.seen) if state.seen else 0.0
            quiet = f"; it has not written for {clock(silent)}" if silent > _SILENT else ""
            return f"{said} for {clock(_ago(state.begin))} ({run}){quiet}." if state.begin else f"{said}, just begun."
        case "finished" | "stopped":
            return f"{said} at {state.end} ({run})."
        case "failed":
            return f"{said} at {state.end} ({run}): {state.error or f'exit code {state.exit_code}'}."
        case "died":
            return f"{said} at {state.seen or state.begin} or soon after ({run}): killed, or the machine went down."
        case "unknown":
            return (
                f"{said}, at {state.seen or state.begin} ({run}). From here, in a copy or "
                "on another machine, nobody can tell whether it still runs there."
            )
    return f"{said}."


def _progress(state: JobState, columns: int) -> list[str]:
    """As the run shows it; of one that has ended, no pace of the last minute."""
    seconds = (state.captioned + state.failed) / state.run_rate if state.run_rate else 0.0
    snapshot = Snapshot(
        total=state.total, before=0, done=state.captioned, failed=state.failed, flagged=state.flagged,
        seconds=seconds, rate=state.rate or 0.0, pace=state.rate or 0.0,
    )  # fmt: skip
    bar, pace = totals(snapshot, columns)
    if state.state != "running":
        ended = f"{state.captioned:,} done, {state.failed:,} failed, {state.flagged:,} flagged"
        pace = f"       {images_a_second(state.run_rate)} in its last run, {ended}" if state.run_rate else ended
    return [bar, pace[:columns]]


def _workers(state: JobState, columns: int) -> list[str]:
    """A line a worker of a run that goes on."""
    rows = []
    for row in state.workers if state.state == "running" else ():
        gpu = GpuLoad(
            row.get("gpu_percent"), row.get("gpu_memory_used"), row.get("gpu_memory_total"), row.get("gpu_celsius")
        )
        use, memory, celsius = gpu_figures(gpu)
        if gpu.use is None and gpu.used is None and "cpu_percent" in row:
            use, memory = f"{row['cpu_percent']:.0f} % CPU", in_bytes(row["ram_used"])
        ended = f"{row.get('done', 0):,} done, {row.get('failed', 0):,} failed"
        pace = images_a_second(row.get("images_per_second", 0.0))
        texts = (f"{row['worker']:<6}", f"{row.get('stage', ''):<13}", f"{pace:>7}", use, memory, celsius, ended)
        rows.append([(text, rank) for rank, text in enumerate(texts)])
    return table(rows, columns)


def _ago(moment: str) -> float:
    return max(0.0, time.time() - datetime.datetime.fromisoformat(moment).timestamp())


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())
