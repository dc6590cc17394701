"""JobState: how the job of an output folder stands, by its files alone. It writes nothing and holds up no run."""

from __future__ import annotations

import datetime
import os
import shlex
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

import checkpoint
from caption.errors import Damaged, OutputError
from caption.outputs.rows import CAPTIONS, FAILED
from caption.rowcounts import RowCounts
from caption.runfile import read_run_file
from caption.score.rows import FAILED_SCORES, SCORES
from caption.score.rows import FOLDER as SCORES_FOLDER
from caption.statsfile import NAME as STATS

_TAIL = 1 << 20  # bytes of stats.jsonl that hold its last entry
_STOPS = {130: "SIGINT", 143: "SIGTERM"}  # by the exit code of a run that they stopped
_FINISHED = (0, 3)


@dataclass
class JobState:
    """Attributes:
    state: "running", "finished", "stopped" (by a signal), "failed" (an error ended it), "died" (without a word),
        "unknown" (it was not ended when this copy was made or last written) or "not begun".
    run, host, pid, begin, end, exit_code, error: of the latest run.
    seen: when it last wrote, in UTC; None if it never did.
    captioned, failed: rows; total: images of the input, as far as the latest run had counted them; left: of these.
    rate, run_rate: images/s over its last minute and over all of it.
    seconds_left: at that rate; None if it does not run or that is not known.
    errors, flags: rows by class; flagged: captions that have a flag.
    workers: rows of stats.jsonl of its last entry.
    scoring: of the second stage: "running", "finished" or "unfinished"; None if there is none.
    scored, not_scored: rows of scores.jsonl and failed_scores.jsonl.
    scores_left: whether --then-score has still to do, and is not at it.
    go_on: the command to type next; None if there is nothing to do, or it was not started by one.
    """

    out: str
    state: str = "not begun"
    run: int = 0
    host: str | None = None
    pid: int | None = None
    begin: str | None = None
    end: str | None = None
    exit_code: int | None = None
    error: str | None = None
    seen: str | None = None
    captioned: int = 0
    failed: int = 0
    flagged: int = 0
    total: int | None = None
    left: int | None = None
    rate: float | None = None
    run_rate: float | None = None
    seconds_left: float | None = None
    errors: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    workers: list[dict[str, Any]] = field(default_factory=list)
    model: str | None = None
    input: str | None = None
    scoring: str | None = None
    scored: int = 0
    not_scored: int = 0
    scores_left: bool = False
    go_on: str | None = None

    def as_json(self) -> bytes:
        return orjson.dumps(asdict(self))


def state_of(out: Path, alive: bool, run: dict[str, Any]) -> str:
    """What became of the latest run of a folder: see JobState.state.

    Args:
        alive: whether a run has it open.
        run: its entry in run.json, {} if there is none.
    """
    if alive:
        return "running"
    if not run:
        return "not begun"
    if run.get("end"):
        code = run.get("exit_code")
        return "finished" if code in _FINISHED else "stopped" if code in _STOPS else "failed"
    lock = out / "checkpoint" / "lock"
    # Whether this is the folder that the run wrote into, on its machine: else its lock says nothing.
    at_home = run.get("host") == socket.gethostname() and run.get("folder") == _text(out.resolve())
    return "unknown" if not at_home or (lock.exists() and not os.access(lock, os.R_OK)) else "died"


def in_words(state: str, exit_code: int | None) -> str:
    """A state as people read it."""
    match state:
        case "stopped":
            return f"stopped by {_STOPS[exit_code]}"
        case "failed":
            return "ended by an error"
        case "unknown":
            return "not ended when it was last written"
        case "not begun":
            return "no run has begun here"
    return state


class Observer:
    """Looks at one output folder, as often as wanted; what was counted before is not counted again."""

    def __init__(self, out: Path):
        self._out, self._counts = out, RowCounts(out)

    def look(self) -> JobState:
        """Raises OutputError: it is no output folder, or can't be read; Damaged: its record can't be trusted."""
        try:
            return self._look()
        except OSError as error:
            problem = f"can't read {error.filename or self._out}: {error.strerror or error}"
            raise OutputError(problem, "check that it is there and its permissions") from error
        except checkpoint.Error as error:
            raise Damaged(str(error), f"python -m caption.verify {self._out} tells more") from error

    def _look(self) -> JobState:
        out = self._out
        if not (out / "checkpoint").is_dir():
            raise OutputError(f"{out} is no output folder of a job", "give the --output of a run")
        try:
            record = checkpoint.read(out)
        except FileNotFoundError:
            record = None  # a run that has just begun
        try:
            content = read_run_file(out)
        except FileNotFoundError:
            content = {"runs": [], "fingerprint": {}}
        self._counts.look()
        counts = self._counts
        found = JobState(
            out=_text(out), captioned=counts.rows[CAPTIONS], failed=counts.rows[FAILED], flagged=counts.flagged,
            errors=dict(counts.errors.most_common()), flags=dict(counts.flags.most_common()),
            input=content["fingerprint"].get("input"),
        )  # fmt: skip
        run = content["runs"][-1] if content["runs"] else {}
        found.model = run.get("settings", {}).get("model")
        found.run = len(content["runs"])
        for name in ("host", "pid", "begin", "end", "exit_code", "error"):
            setattr(found, name, run.get(name))
        latest, found.workers = _last_entry(out / STATS, found.run)
        found.state = self._state(record, run)
        found.seen = self._seen(record, latest)
        self._add_progress(found, run.get("merged", {}) | latest)
        self._add_scores(found)
        if run.get("settings", {}).get("then_score") and found.scoring != "running":
            unscored = found.captioned > found.scored + found.not_scored  # it may have ended between the stages
            found.scores_left = found.scoring == "unfinished" or unscored
        if run and found.state != "running":
            found.go_on = _command(found, run, out)
        return found

    def _add_scores(self, found: JobState) -> None:
        try:
            view = checkpoint.read(self._out, SCORES_FOLDER)
        except FileNotFoundError:
            return
        found.scored, found.not_scored = view.counts.get(SCORES, 0), view.counts.get(FAILED_SCORES, 0)
        try:
            latest = read_run_file(self._out / SCORES_FOLDER)["runs"][-1]
        except (FileNotFoundError, IndexError):
            latest = {}
        ended = latest.get("exit_code") in _FINISHED
        found.scoring = "running" if view.alive else "finished" if ended else "unfinished"

    def _state(self, record: checkpoint.View | None, run: dict[str, Any]) -> str:
        return state_of(self._out, bool(record and record.alive), run)

    def _seen(self, record: checkpoint.View | None, latest: dict[str, Any]) -> str | None:
        times = [datetime.datetime.fromisoformat(record.time).timestamp()] if record and record.time else []
        times += [latest["time"]] if latest else []
        if not times:
            return None
        return datetime.datetime.fromtimestamp(max(times), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _add_progress(self, found: JobState, latest: dict[str, Any]) -> None:
        ended = found.captioned + found.failed
        found.total = latest.get("total")
        if found.total is not None:
            found.total = max(found.total, ended) if found.state != "running" else found.total
            found.left = max(0, found.total - ended)
        found.run_rate = latest.get("images_per_second_run")
        if found.state == "running":
            found.rate = latest.get("images_per_second_minute")
            if found.left is not None and found.rate:
                past = max(0.0, time.time() - latest["time"])
                found.seconds_left = max(0.0, found.left / found.rate - past * (past < 60))


def _text(path: Path) -> str:
    """As run.json has it."""
    return os.fspath(path).encode(errors="replace").decode()


def _last_entry(path: Path, run: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The run's row of the last entry of this run in stats.jsonl, and the workers' rows; {} and [] if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}, []
    workers: list[dict[str, Any]] = []
    for line in reversed(lines):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:  # torn by a crash, or the first of the tail
            continue
        if not isinstance(row, dict):
            continue
        if "worker" in row:
            workers.insert(0, row)
        elif row.get("run") == run:
            return row, workers
        else:
            break
    return {}, []


def _command(found: JobState, run: dict[str, Any], out: Path) -> str | None:
    """What to type to go on, or to do the failed images again; None if nothing is left or it is not known."""
    finished = found.state == "finished" and not found.left and not found.scores_left
    if run.get("argv") is None or (finished and not found.failed):
        return None
    words = to_go_on(run["argv"], None if run.get("folder") == _text(out.resolve()) else _text(out))
    words += ["--retry-failed"] if finished else []
    variables = [f"{name}={shlex.quote(value)}" for name, value in run.get("environment", {}).items()]
    command = " ".join([*variables, shlex.join(["python", "-m", "caption.run", *words])])
    here = run.get("cwd")
    return f"cd {shlex.quote(here)} && {command}" if here and here != os.getcwd() else command


def without(argv: Sequence[str], option: str) -> list[str]:
    """The words of a command less an option that has a value."""
    words = iter(argv)
    return [word for word in words if not (word.startswith(f"{option}=") or (word == option and [next(words, None)]))]


def to_go_on(argv: Sequence[str], output: str | None = None) -> list[str]:
    """The words of a command that goes on: what was to be done again is open already, and not taken out once more.

    output: another output folder; None: as it was.
    """
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--redo" or (output is not None and word == "--output"):
            next(words, None)
        elif not (word == "--retry-failed" or word.startswith("--redo=")
                  or (output is not None and word.startswith("--output="))):  # fmt: skip
            kept.append(word)
    return kept if output is None else [*kept, "--output", output]
