"""Stalls: a worker that hangs or was stopped is noticed, replaced and not waited for; nobody else is blamed."""

import os
import signal
import time

import pytest

from caption import stall
from caption.messages import Stats
from caption.stall import StallWatch
from tests.runs import captions, empty_pictures, failures, processes_of, run, start, wait_for_rows, workers_of

TWO_SECONDS = ("--stall-timeout", 2)


class Clock:
    """In place of a clock of this process: a test says what time it is."""

    time = 0.0

    def now(self):
        return self.time


@pytest.fixture
def watch(monkeypatch):
    """A watch with a limit of 10 s, and 5 s more for pictures."""
    monkeypatch.setattr(stall, "LEAST_LOADING", 0.0)
    watch = StallWatch(10, pictures=5)
    watch._clock = Clock()
    return watch


def after(watch, seconds, *look):
    watch._clock.time += seconds
    return watch.look("gpu0", *look)


def stats(stage="generating", steps=0):
    return Stats(stage, {}, steps)


def test_a_worker_that_computes_without_a_step_is_stalled_and_one_with_steps_is_not(watch):
    assert after(watch, 0, "ready", stats(steps=1)) is None
    for steps in range(2, 30):
        assert after(watch, 9, "ready", stats(steps=steps)) is None
    assert after(watch, 9, "ready", stats(steps=29)) is None
    assert after(watch, 2, "ready", stats(steps=29)) == "it made no progress for 11 s"


def test_a_worker_without_work_never_stalls_as_long_as_it_speaks(watch):
    for _ in range(50):
        assert after(watch, 9, "ready", stats("waiting")) is None


def test_a_worker_that_falls_silent_is_stalled_even_without_work(watch):
    last = stats("waiting")
    assert after(watch, 0, "ready", last) is None
    assert after(watch, 11, "ready", last) == "it said nothing for 11 s"


def test_waiting_for_a_slow_picture_is_given_the_time_that_a_picture_may_take(watch):
    assert after(watch, 0, "ready", stats("preprocessing")) is None
    assert after(watch, 14, "ready", stats("preprocessing")) is None
    assert after(watch, 2, "ready", stats("preprocessing")) is not None


def test_a_model_may_load_three_times_as_long_and_longer_while_it_is_being_read(watch):
    assert after(watch, 0, "loading", stats("loading")) is None
    assert after(watch, 29, "loading", stats("loading")) is None
    for megabytes in range(1, 5):
        assert after(watch, 29, "loading", stats("loading", megabytes)) is None
    assert after(watch, 31, "loading", stats("loading", 4)) is not None


def test_a_load_may_take_a_minute_however_short_the_limit():
    watch = StallWatch(2)
    watch._clock = Clock()
    assert after(watch, 0, "loading", stats("loading")) is None
    assert after(watch, 59, "loading", stats("loading")) is None
    assert after(watch, 2, "loading", stats("loading")) is not None


def test_nobody_is_to_blame_for_the_wait_for_a_turn(watch):
    for _ in range(50):
        assert after(watch, 9, "waiting", stats("loading")) is None


def test_a_process_that_never_says_hello_is_stalled(watch):
    assert after(watch, 0, "starting", None) is None
    assert after(watch, 29, "starting", None) is None
    assert after(watch, 2, "starting", None) is not None


def test_the_next_worker_on_a_seat_begins_anew(watch):
    assert after(watch, 0, "ready", stats(steps=7)) is None
    assert after(watch, 11, "ready", stats(steps=7)) is not None
    watch.forget("gpu0")
    assert after(watch, 1, "starting", None) is None


def test_without_a_limit_nobody_is_watched():
    watch = StallWatch(0)
    watch._clock = Clock()
    last = stats()
    assert after(watch, 0, "ready", last) is None
    assert after(watch, 10**6, "ready", last) is None


def test_a_suspension_of_the_coordinator_counts_as_a_second(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("caption.awake.time.monotonic", lambda: now[0])
    watch, last = StallWatch(10), stats()
    assert watch.look("gpu0", "ready", last) is None
    for _ in range(10):
        now[0] += 3600
        assert watch.look("gpu0", "ready", last) is None
    now[0] += 3600
    assert watch.look("gpu0", "ready", last) == "it said nothing for 11 s"


def test_the_silence_of_a_worker_is_no_long_step_however_long_a_step_may_take():
    watch = StallWatch(stall.ON_CPU)
    watch._clock = Clock()
    last = stats()
    assert after(watch, 0, "ready", last) is None
    assert "said nothing" in after(watch, 301, "ready", last)


# ---- on real processes ----


@pytest.fixture
def pictures(tmp_path):
    empty_pictures(tmp_path / "in", 40)
    return tmp_path / "in"


def all_captioned_without_a_charge(pictures, out):
    rows = captions(out)
    assert {id: row["caption"] for id, row in rows.items()} == {path.name: path.name for path in pictures.iterdir()}
    assert [row["id"] for row in rows.values() if row["attempts"] > 1] == []


def test_a_picture_that_hangs_each_worker_is_found_alone_and_its_neighbours_are_captioned(pictures, tmp_path):
    empty_pictures(pictures, 1, prefix="000020-poison")
    done = run(pictures, "--output", tmp_path / "out", "--model", "null", "--batch-size", 2, "--max-retries", 0,
               "--workers", 2, *TWO_SECONDS, fault="hang")  # fmt: skip
    assert done.returncode == 0, done.stderr
    [(id, failed)] = failures(tmp_path / "out").items()
    assert (id, failed["error"]) == ("000020-poison000000.jpg", "WorkerDied")
    assert "no progress" in failed["message"]
    assert "in faults/sitecustomize.py, line" in failed["message"], "where it hangs"
    (pictures / id).unlink()
    all_captioned_without_a_charge(pictures, tmp_path / "out")


@pytest.mark.parametrize("fault", ["hang in load", "hang at start"])
def test_a_worker_that_hangs_before_its_first_batch_is_replaced(pictures, tmp_path, fault):
    done = run(pictures, "--output", tmp_path / "out", "--model", "null", "--workers", 2, *TWO_SECONDS, fault=fault,
               FAULT_MARKER=str(tmp_path / "marker"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "marker").exists()
    assert "the worker is gone, it made no progress for" in done.stderr
    all_captioned_without_a_charge(pictures, tmp_path / "out")


def test_a_stopped_worker_is_replaced_and_its_pictures_are_not_charged(pictures, tmp_path):
    process = start(pictures, "--output", tmp_path / "out", "--model", "null:150", "--workers", 2, "--batch-size", 1,
                    *TWO_SECONDS)  # fmt: skip
    wait_for_rows(tmp_path / "out", 5)
    os.kill(workers_of(process)[0], signal.SIGSTOP)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "its process was stopped" in stderr
    all_captioned_without_a_charge(pictures, tmp_path / "out")


def test_a_worker_that_is_stopped_for_a_moment_goes_on(pictures, tmp_path):
    process = start(pictures, "--output", tmp_path / "out", "--model", "null:100", "--workers", 1, "--stall-timeout", 9)
    wait_for_rows(tmp_path / "out", 8)
    [worker] = workers_of(process)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(worker, signal.SIGCONT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "the worker is gone" not in stderr
    all_captioned_without_a_charge(pictures, tmp_path / "out")


@pytest.mark.parametrize("whom", ["the coordinator alone", "all processes"])
def test_a_run_that_was_suspended_blames_nobody(pictures, tmp_path, whom):
    """As a Ctrl-Z, or a laptop that slept."""
    process = start(pictures, "--output", tmp_path / "out", "--model", "null:100", "--workers", 2, *TWO_SECONDS)
    wait_for_rows(tmp_path / "out", 8)
    pids = [process.pid] if whom == "the coordinator alone" else processes_of(process)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "the worker is gone" not in stderr
    all_captioned_without_a_charge(pictures, tmp_path / "out")
