"""Status: each state that a folder can be in, the figures of its rows, and that looking changes and hinders nothing."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from caption.jobstate import JobState, Observer, to_go_on
from caption.outputs.rows import CAPTIONS, FAILED
from caption.rowcounts import RowCounts
from caption.status import _watch, describe
from tests.runs import ROOT, command, empty_pictures, environment, kill_group, run, start, wait_for_rows

PICTURES = 25_000


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    empty_pictures(folder, PICTURES)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def status(out, *options):
    done = run(out, *options, module="caption.status")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def state(out):
    """As --json gives it, without the start of a process."""
    return json.loads(Observer(out).look().as_json())


def text_of(out):
    return "\n".join(describe(Observer(out).look()))


def until(look, holds):
    """The first look of which this holds; an entry of figures comes once a second."""
    deadline = time.monotonic() + 20
    while not holds(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def job(pictures, out, *more):
    return (pictures, "--output", out, "--model", "null", *more)


def snapshot_of(out):
    """Everything in the folder: names, sizes, contents and times of change."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return [(str(path), path.stat().st_mtime_ns, path.read_bytes()) for path in files]


def test_a_finished_run_with_its_figures_and_nothing_is_touched(pictures, out):
    run(*job(pictures, out, "--limit", 300))
    before = snapshot_of(out)
    found = json.loads(status(out, "--json"))
    text = status(out)
    assert snapshot_of(out) == before
    assert (found["state"], found["exit_code"], found["captioned"], found["failed"]) == ("finished", 0, 300, 0)
    assert (found["total"], found["left"], found["go_on"]) == (300, 0, None)
    assert found["run_rate"] > 0 and found["rate"] is None
    assert text.startswith(f"{out}: finished at ") and "300/300" in text and "100 %" in text


def test_a_run_that_goes_on_is_running_with_pace_and_workers_and_a_stopped_one_says_what_to_type(pictures, out):
    going = start(*job(pictures, out, "--checkpoint-every", 500))
    try:
        wait_for_rows(out, 6000)
        found = until(lambda: state(out), lambda found: found["rate"])
        text = text_of(out)
        assert (found["state"], found["pid"], found["total"]) == ("running", going.pid, PICTURES)
        assert 6000 <= found["captioned"] < PICTURES
        assert found["seconds_left"] > 0
        assert [row["worker"] for row in found["workers"]] == ["cpu0"]
        assert f"kill -INT {going.pid}" in text and " left" in text and "\ncpu0 " in text
        os.kill(going.pid, signal.SIGINT)
        going.communicate(timeout=30)
    finally:
        kill_group(going) if going.poll() is None else None
    found = state(out)
    assert (found["state"], found["exit_code"]) == ("stopped", 130)
    line = command(*job(pictures, out, "--checkpoint-every", 500))[1:]
    assert found["go_on"] == " ".join(["python", *map(str, line)])
    assert "stopped by SIGINT" in text_of(out) and "Go on" in text_of(out)


def test_a_run_killed_at_any_instant_has_died_and_a_copy_of_it_is_not_said_to_have(pictures, out, tmp_path):
    going = start(*job(pictures, out))
    wait_for_rows(out, 2000)
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    running_copy = state(copy)
    kill_group(going)
    found = state(out)
    assert found["state"] == "died" and found["go_on"] and found["end"] is None
    assert found["captioned"] == (out / CAPTIONS).read_bytes().count(b"\n") >= 2000
    assert text_of(out).startswith(f"{out}: died at 2")
    assert running_copy["state"] == "unknown" and running_copy["captioned"] >= 2000
    assert f"--output {copy}" in running_copy["go_on"] and f"--output {out}" not in running_copy["go_on"]
    assert "nobody can tell whether it still runs" in text_of(copy)
    other = json.loads((out / "run.json").read_text())
    other["runs"][-1]["host"] = "another-machine"
    (out / "run.json").write_text(json.dumps(other))
    assert state(out)["state"] == "unknown", "its lock may not reach this machine"


def test_a_copy_of_a_finished_job_is_finished_also_without_permission_to_write(pictures, out, tmp_path):
    run(*job(pictures, out, "--limit", 100))
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    for path in (*copy.rglob("*"), copy):
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert state(copy)["state"] == "finished"
    finally:
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o700)


def test_failures_by_class_and_flags_are_counted_from_the_rows_and_failed_ones_can_be_typed_again(out, tmp_path):
    table = tmp_path / "in.jsonl"
    table.write_text('{"image":"a.jpg","x":1}\n{"image":"b.jpg"}\n{"image":"c.jpg"}\n{"image":"http://d.jpg","x":1}\n')
    run(table, "--output", out, "--model", "null", "--prompt", "what {x}", "--on-flag", "loop=keep")
    found = state(out)
    assert (found["state"], found["errors"]) == ("finished", {"MissingField": 2, "NotLocal": 1})
    assert found["go_on"].endswith("--prompt 'what {x}' --on-flag loop=keep --retry-failed")
    assert "Failed   2 MissingField, 1 NotLocal" in text_of(out) and "Again" in text_of(out)


def test_a_run_that_an_error_ended_says_which(out, pictures):
    failed = run(*job(pictures, out), fault="disk full", FAULT_AFTER="200000")
    assert failed.returncode == 5
    found = state(out)
    assert found["state"] in ("failed", "died"), "the disk may not take the end either"
    if found["state"] == "failed":
        assert "full" in found["error"] and "ended by an error" in text_of(out)


def test_looking_without_pause_hinders_no_run_from_beginning(pictures, out):
    run(*job(pictures, out, "--limit", 10))
    code = (
        "import sys, time, checkpoint; from pathlib import Path\n"
        "print(flush=True)\n"
        "while True: checkpoint.read(Path(sys.argv[1])), time.sleep(0.002)"
    )
    looking = subprocess.Popen(
        [sys.executable, "-c", code, out], cwd=ROOT, env=environment(), stdout=subprocess.PIPE
    )
    try:
        looking.stdout.readline()
        for limit in (20, 30):
            assert run(*job(pictures, out, "--limit", limit)).returncode == 0
    finally:
        looking.kill()
        looking.communicate()


def test_watching_ends_with_the_run_and_shows_each_look(pictures, out):
    going = start(*job(pictures, out))
    try:
        wait_for_rows(out, 500)
        watching = run(out, "--watch", "--json", module="caption.status")
        going.communicate(timeout=60)
    finally:
        kill_group(going) if going.poll() is None else None
    looks = [json.loads(line) for line in watching.stdout.splitlines()]
    assert [look["state"] for look in looks[:-1]] == ["running"] * (len(looks) - 1) and len(looks) > 1
    assert looks[-1]["state"] == "finished" and looks[-1]["captioned"] == PICTURES
    counts = [look["captioned"] for look in looks]
    assert counts == sorted(counts)


class Gone(io.StringIO):
    """A terminal that was closed: every write fails."""

    def isatty(self):
        return True

    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")


class Running:
    """A job that never ends."""

    def look(self):
        return JobState("out", state="running")


@pytest.mark.parametrize("json", [False, True])
def test_watching_ends_when_nobody_listens_any_more(monkeypatch, json):
    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it goes on for nobody"))
    assert _watch(Running(), json, watch=True) == 0


@pytest.mark.parametrize("content, code, words", [
    (None, 2, "is no output folder"),
    ("empty", 2, "is no output folder"),
    ("damaged", 4, "caption.verify"),
    ("no run.json", 0, "no run has begun"),
])  # fmt: skip
def test_what_is_no_job_or_damaged_is_one_sentence(out, pictures, content, code, words):
    if content == "empty":
        out.mkdir()
    elif content:
        run(*job(pictures, out, "--limit", 10))
        damaged = out / ("checkpoint/checkpoint.json" if content == "damaged" else "run.json")
        damaged.write_bytes(b"{}") if content == "damaged" else damaged.unlink()
    done = run(out, module="caption.status")
    assert done.returncode == code and words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1


def test_stats_that_are_missing_or_torn_cost_figures_and_nothing_else(pictures, out):
    run(*job(pictures, out, "--limit", 50))
    (out / "stats.jsonl").write_bytes(b'{"time": 1, "run": 1}\n5\n[]\n\0\0\n{"time": 1, "ru')
    assert (state(out)["captioned"], state(out)["total"]) == (50, None)
    (out / "stats.jsonl").unlink()
    assert (state(out)["state"], state(out)["total"]) == ("finished", None)


def row(**fields):
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def test_flags_are_counted_once_as_rows_come_and_words_in_captions_are_none(tmp_path):
    path, counts = tmp_path / CAPTIONS, RowCounts(tmp_path)
    counts.look()
    assert counts.rows == {CAPTIONS: 0, FAILED: 0}
    path.write_bytes(row(id='"flags":["echo"]', caption='"flags":["loop"]', flags=["loop", "cut-off"]) + b'{"id":"torn')
    counts.look()
    assert (counts.rows[CAPTIONS], dict(counts.flags), counts.flagged) == (1, {"loop": 1, "cut-off": 1}, 1)
    with path.open("ab") as file:
        file.write(b'"}\n' + row(id="c", flags=["bf16"]) + row(id="d", flags=[]))
    counts.look()
    assert (counts.rows[CAPTIONS], counts.flags["bf16"], counts.flagged) == (4, 1, 1)


def test_a_row_file_written_anew_is_counted_anew(tmp_path):
    path, counts = tmp_path / FAILED, RowCounts(tmp_path)
    path.write_bytes(row(id="a", error="Truncated", message="x") * 3)
    counts.look()
    new = tmp_path / "new"
    new.write_bytes(row(id="b", error="Vanished", message="x") * 9)
    new.replace(path)
    counts.look()
    assert (counts.rows[FAILED], dict(counts.errors)) == (9, {"Vanished": 9})


def test_the_command_to_go_on_takes_nothing_out_once_more():
    assert to_go_on(["in", "--output", "o", "--redo", "loop", "--retry-failed", "--redo=echo", "--seed", "1"]) == [
        "in", "--output", "o", "--seed", "1",
    ]  # fmt: skip
    assert to_go_on(["in", "--output=o", "--seed", "1"], "copy") == ["in", "--seed", "1", "--output", "copy"]


def test_names_that_are_no_text_stand_in_no_way_of_a_run_or_of_its_status(tmp_path):
    folder = tmp_path / os.fsdecode(b"in\xff")
    empty_pictures(folder, 2)
    out = tmp_path / os.fsdecode(b"out\xfe")
    for _ in range(2):
        assert run(folder, "--output", out, "--model", "null").returncode == 0
    assert (state(out)["state"], state(out)["run"], state(out)["captioned"]) == ("finished", 2, 2)
    assert status(out).startswith(f"{tmp_path}/out?: finished")


def test_a_run_stopped_before_its_first_image_was_stopped_and_has_not_died(tmp_path):
    empty_pictures(tmp_path / "in", 2)
    code = (
        "import os, signal, sys, caption.job, caption.run\n"
        "def interrupted(*_): os.kill(os.getpid(), signal.SIGINT)\n"
        "caption.job.Stage.run = interrupted\n"
        "sys.exit(caption.run.main(sys.argv[1:]))"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--model", "null"]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 130
    found = state(tmp_path / "out")
    assert (found["state"], found["exit_code"], found["go_on"]) == ("stopped", 130, None)
