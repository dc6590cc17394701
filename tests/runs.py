"""Runs of the command line in processes of their own, as a user starts them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ROOT / "tests" / "faults"
FAKE_GPUS = ROOT / "tests" / "fakegpus"


def environment(**extra: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CAPTION_")}
    return {**clean, "PYTHONPATH": str(ROOT), **extra}


def command(*args: object, module: str = "caption.run") -> list[str]:
    return [sys.executable, "-m", module, *map(str, args)]


def broken(fault: str = "", gpus: Path | None = None) -> dict[str, str]:
    """Variables for a process that has a fault of tests/faults, and a driver of GPUs that a file describes."""
    path, extra = [str(ROOT)], {}
    if fault:
        path, extra = [*path, str(FAULTS)], {"FAULT": fault}
    if gpus:
        path, extra = [str(FAKE_GPUS), *path], extra | {"FAKE_GPUS": str(gpus)}
    return extra | {"PYTHONPATH": os.pathsep.join(path)}


def run(
    *args: object, timeout: float = 100, fault: str = "", gpus: Path | None = None, module: str = "caption.run",
    **extra: str,
):  # fmt: skip
    """Runs to the end; returns the finished process with its text output."""
    return subprocess.run(
        command(*args, module=module), env=environment(**broken(fault, gpus), **extra), timeout=timeout, text=True,
        capture_output=True, cwd=ROOT, check=False,
    )  # fmt: skip


def start(*args: object, **extra: str) -> subprocess.Popen:
    """Starts in a process group of its own, so that a test can signal the group as a terminal does."""
    return subprocess.Popen(
        command(*args), env=environment(**extra), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, cwd=ROOT,
    )  # fmt: skip


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def captions(out: Path) -> dict[str, dict]:
    """Rows of captions.jsonl by id; an id that stands twice is an error."""
    return _by_id(rows(out / "captions.jsonl"))


def failures(out: Path) -> dict[str, dict]:
    return _by_id(rows(out / "failed.jsonl"))


def run_file(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())


def _by_id(found: list[dict]) -> dict[str, dict]:
    by_id = {row["id"]: row for row in found}
    assert len(by_id) == len(found), "an id stands twice"
    return by_id


def wait_for_rows(out: Path, count: int, timeout: float = 60) -> None:
    """Waits until captions.jsonl holds at least ``count`` rows."""
    path, deadline = out / "captions.jsonl", time.monotonic() + timeout
    while not (path.exists() and path.read_bytes().count(b"\n") >= count):
        assert time.monotonic() < deadline, f"no {count} rows in time"
        time.sleep(0.02)


def processes_of(process: subprocess.Popen) -> list[int]:
    """Pids of the live processes of its session: the coordinator, workers and loaders."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            state, session = re.match(r".*\) (\w) \d+ \d+ (\d+)", stat).groups()
            if int(session) == process.pid and state != "Z":
                found.append(int(entry.name))
    return found


def workers_of(process: subprocess.Popen) -> list[int]:
    found = []
    for pid in processes_of(process):
        try:
            if b"caption.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def own_workers() -> list[psutil.Process]:
    """The worker processes that pools of this process have started."""
    return [child for child in psutil.Process().children() if "caption.worker" in child.cmdline()]


def kill_group(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_until_alone(process: subprocess.Popen, timeout: float) -> None:
    """Waits until no process of its session is left."""
    deadline = time.monotonic() + timeout
    while left := processes_of(process):
        assert time.monotonic() < deadline, f"processes {left} outlive the run"
        time.sleep(0.05)


def empty_pictures(folder: Path, count: int, prefix: str = "") -> list[str]:
    """Files that only the do-nothing engine can caption; it never opens them. Returns the ids, sorted."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{prefix}{number:06}.jpg" for number in range(count)]
    for name in names:
        (folder / name).touch()
    return names
