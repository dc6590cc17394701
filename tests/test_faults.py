"""Faults of workers, on real processes: a poison picture costs itself and nobody else."""

import fcntl
import os
import signal
import subprocess
import termios
import time

import pytest

from tests.runs import (
    ROOT,
    broken,
    captions,
    command,
    empty_pictures,
    environment,
    failures,
    run,
    start,
    wait_for_rows,
    workers_of,
)


@pytest.fixture
def pictures(tmp_path):
    empty_pictures(tmp_path / "in", 40)
    empty_pictures(tmp_path / "in", 1, prefix="000020-poison")
    return tmp_path / "in"


POISON = "000020-poison000000.jpg"


def captioned_all_but_the_poison(out, error, attempts):
    done, failed = captions(out), failures(out)
    assert set(failed) == {POISON}
    assert (failed[POISON]["error"], failed[POISON]["attempts"]) == (error, attempts)
    assert failed[POISON]["message"]
    assert len(done) == 40
    for id, row in done.items():
        assert row["caption"] == id
        assert row["attempts"] == 1 and "retries" not in row  # a good neighbour is never charged


@pytest.mark.parametrize(
    ("fault", "error"), [("error", "EngineFailed"), ("memory", "OutOfMemory"), ("kill", "WorkerDied"),
                         ("device", "WorkerDied")],
)  # fmt: skip
@pytest.mark.parametrize("workers", [1, 2])
def test_a_poison_picture_is_found_alone_and_its_neighbours_are_captioned(pictures, tmp_path, fault, error, workers):
    out = tmp_path / "out"
    done = run(pictures, "--output", out, "--model", "null", "--workers", workers, "--max-retries", 1, fault=fault)
    assert done.returncode == 0, done.stderr
    captioned_all_but_the_poison(out, error, attempts=2)
    assert f"1 failed (1 {error})" in done.stdout.splitlines()[-1]


def test_what_failed_only_in_company_is_captioned_alone_without_a_charge(pictures, tmp_path):
    done = run(pictures, "--output", tmp_path / "out", "--model", "null", fault="error in company")
    assert done.returncode == 0, done.stderr
    rows = captions(tmp_path / "out")
    assert len(rows) == 41 and all(row["attempts"] == 1 for row in rows.values())


def test_what_failed_once_by_itself_is_captioned_and_its_row_says_so(pictures, tmp_path):
    done = run(pictures, "--output", tmp_path / "out", "--model", "null", fault="error once alone",
               FAULT_MARKER=str(tmp_path / "marker"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = captions(tmp_path / "out")[POISON]
    assert row["attempts"] == 2
    assert row["retries"] == [{"reason": "EngineFailed", "changed": "nothing"}]


def test_strict_ends_with_3_when_a_picture_failed(pictures, tmp_path):
    command = (pictures, "--output", tmp_path / "out", "--model", "null", "--max-retries", 0)
    assert run(*command, "--strict", fault="error").returncode == 3


def test_a_run_without_one_caption_ends_with_3(tmp_path):
    empty_pictures(tmp_path / "in", 3, prefix="poison")
    done = run(tmp_path / "in", "--output", tmp_path / "out", "--model", "null", "--max-retries", 0, fault="error")
    assert done.returncode == 3
    assert len(failures(tmp_path / "out")) == 3


def test_when_no_worker_can_load_the_run_ends_with_5_and_says_why(pictures, tmp_path):
    done = run(pictures, "--output", tmp_path / "out", "--model", "null", fault="load")
    assert done.returncode == 5
    assert "out of memory while loading" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.fixture
def held_load(pictures, tmp_path):
    """held_load(WAY): a run whose second worker loads until the file that is given back, too, is there."""

    def start_(way):
        marker = tmp_path / "marker"
        process = start(pictures, "--output", tmp_path / "out", "--model", "null:20", "--workers", 2, "--start", way,
                        **broken("held load"), FAULT_MARKER=str(marker))  # fmt: skip
        deadline = time.monotonic() + 60
        while not marker.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process, tmp_path / "marker.go"

    return start_


def test_workers_that_begin_together_wait_for_the_last_to_load(held_load, tmp_path):
    process, go_on = held_load("together")
    time.sleep(1.5)  # the first is ready now
    assert captions(tmp_path / "out") == {}
    go_on.touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert len(captions(tmp_path / "out")) == 41


def test_a_worker_that_begins_when_it_is_ready_waits_for_nobody(held_load, tmp_path):
    process, _ = held_load("each")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert len(captions(tmp_path / "out")) == 41


def test_a_worker_that_was_killed_with_several_pictures_inside_charges_none_of_them(tmp_path):
    """Groups of one, which entered the engine at different times."""
    empty_pictures(tmp_path / "in", 60)
    out = tmp_path / "out"
    process = start(tmp_path / "in", "--output", out, "--model", "null:100", "--batch-size", 4,
                    **broken("one by one"))  # fmt: skip
    for target in (8, 24):
        wait_for_rows(out, target)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        time.sleep(0.5)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    rows = captions(out)
    assert len(rows) == 60 and {row["attempts"] for row in rows.values()} == {1}


def test_a_terminal_that_goes_away_does_not_stop_a_run(pictures, tmp_path):
    """The pseudo-terminal of the run is closed at its other end, as when a window or an ssh connection is closed."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        command(pictures, "--output", tmp_path / "out", "--model", "null:100"), env=environment(), cwd=ROOT,
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    wait_for_rows(tmp_path / "out", 8)
    assert process.poll() is None
    os.close(ours)  # the kernel sends SIGHUP, and each write fails from now on
    assert process.wait(60) == 0
    assert len(captions(tmp_path / "out")) == 41


def test_killed_workers_are_replaced_and_every_picture_is_captioned(tmp_path):
    empty_pictures(tmp_path / "in", 400)
    out = tmp_path / "out"
    process = start(tmp_path / "in", "--output", out, "--model", "null:10", "--workers", 2)
    for target in (40, 120, 200):
        wait_for_rows(out, target)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        time.sleep(0.2)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "SIGKILL" in stderr
    assert {id: row["caption"] for id, row in captions(out).items()} == {
        path.name: path.name for path in (tmp_path / "in").iterdir()
    }
    assert failures(out) == {}
