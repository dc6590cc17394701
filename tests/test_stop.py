"""Stopping and dying: what a Ctrl-C, a SIGTERM, a kill and a closed terminal leave behind."""

import os
import shlex
import signal
import subprocess
import time

import pytest

from caption.stop import StopSignals
from tests import runs
from tests.runs import captions, empty_pictures, kill_group, run, start, wait_for_rows, wait_until_alone, workers_of

SLOW = ("--model", "null:20", "--workers", 2)


@pytest.fixture
def pictures(tmp_path):
    empty_pictures(tmp_path / "in", 300)
    return tmp_path / "in"


def completes(pictures, out):
    """A run that goes on has every picture once."""
    assert run(pictures, "--output", out, *SLOW).returncode == 0
    assert {id: row["caption"] for id, row in captions(out).items()} == {p.name: p.name for p in pictures.iterdir()}


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_first_signal_to_the_whole_group_finishes_what_is_in_flight_and_says_how_to_go_on(
    pictures, tmp_path, stop, code
):
    out = tmp_path / "out"
    process = start(pictures, "--output", out, *SLOW)
    wait_for_rows(out, 20)
    os.killpg(process.pid, stop)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in stdout + stderr and "KeyboardInterrupt" not in stdout + stderr
    assert stop.name in stdout.splitlines()[-1] and "same command again" in stdout.splitlines()[-1]
    done = captions(out)
    assert 20 <= len(done) < 300
    assert f"{len(done)} captioned" in stdout
    wait_until_alone(process, 1)
    completes(pictures, out)


def test_a_second_ctrl_c_stops_at_once_and_loses_nothing_that_was_written(pictures, tmp_path):
    out = tmp_path / "out"
    process = start(pictures, "--output", out, "--model", "null:1500", "--workers", 2)  # 12 s a batch
    deadline = time.monotonic() + 30
    while len(workers_of(process)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    asked = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - asked < 4
    assert process.returncode == 130
    assert "Traceback" not in stdout + stderr
    wait_until_alone(process, 1)


def test_after_the_grace_a_sigterm_stops_at_once_but_in_order(tmp_path):
    empty_pictures(tmp_path / "in", 2)
    out = tmp_path / "out"
    process = start(tmp_path / "in", "--output", out, "--model", "null:30000", "--grace", 0.5)
    deadline = time.monotonic() + 30
    while not ((out / "run.log").exists() and "ready" in (out / "run.log").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    asked = time.monotonic()
    stdout, stderr = process.communicate(timeout=30)
    assert 0.5 < time.monotonic() - asked < 4
    assert process.returncode == 143 and "Traceback" not in stdout + stderr
    assert "if that takes no more than 0.5 s" in stderr + stdout
    assert runs.run_file(out)["runs"][-1]["exit_code"] == 143


def test_ctrl_c_while_models_load_ends_at_once_without_a_traceback(pictures, tmp_path):
    for pause in (0.15, 0.3, 0.45, 0.6):
        process = start(pictures, "--output", tmp_path / "out", *SLOW)
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "Traceback" not in stdout + stderr, (pause, stderr)
        wait_until_alone(process, 2)


def test_a_sigterm_that_comes_by_two_ways_is_one_and_a_later_one_is_another(monkeypatch):
    with StopSignals() as stop, stop.looked_after():
        for second, asked in [(100.0, 1), (101.0, 1), (103.0, 2)]:
            monkeypatch.setattr("caption.stop.time.monotonic", lambda second=second: second)
            signal.raise_signal(signal.SIGTERM)
            assert stop.asked == asked


def test_a_killed_coordinator_leaves_no_worker_for_more_than_ten_seconds(pictures, tmp_path):
    out = tmp_path / "out"
    process = start(pictures, "--output", out, *SLOW)
    wait_for_rows(out, 20)
    assert len(workers_of(process)) == 2
    process.kill()
    process.communicate()
    wait_until_alone(process, 10)
    completes(pictures, out)


def test_a_killed_group_is_resumed_without_loss_and_no_caption_is_computed_twice(pictures, tmp_path):
    out = tmp_path / "out"
    for target in (20, 100, 180):
        process = start(pictures, "--output", out, *SLOW)
        wait_for_rows(out, target)
        kill_group(process)
        written = (out / "captions.jsonl").read_bytes()
        whole = written[: written.rfind(b"\n") + 1]
        again = run(pictures, "--output", out, *SLOW, "--limit", 1)
        assert again.returncode == 0, again.stderr
        assert (out / "captions.jsonl").read_bytes()[: len(whole)] == whole
    completes(pictures, out)


def test_a_closed_terminal_does_not_stop_a_run(pictures, tmp_path):
    out = tmp_path / "out"
    process = start(pictures, "--output", out, *SLOW)
    wait_for_rows(out, 20)
    process.stdout.close()
    process.stderr.close()
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(30) == 0
    assert len(captions(out)) == 300


def test_a_ctrl_c_while_a_large_model_is_read_ends_at_once_and_says_so(pictures, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with (model / "model.safetensors").open("wb") as weights:
        weights.truncate(30 << 30)
    process = start(pictures, "--output", tmp_path / "out", "--model", model)
    assert "Reading the model" in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    asked = time.monotonic()
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - asked < 3
    assert "SIGINT" in stdout and "Traceback" not in stderr


def test_a_closed_terminal_during_the_first_moments_does_not_stop_a_run(pictures, tmp_path):
    process = start(pictures, "--output", tmp_path / "out", "--model", "null")
    time.sleep(0.15)  # the interpreter itself takes some 30 ms, in which nobody can ignore anything
    for _ in range(8):
        os.killpg(process.pid, signal.SIGHUP)
        time.sleep(0.05)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert len(captions(tmp_path / "out")) == 300


def test_without_standard_streams_a_run_still_does_its_work(pictures, tmp_path):
    command = shlex.join(runs.command(pictures, "--output", tmp_path / "out", "--model", "null"))
    for closed in ("2>&-", ">&-", "<&- >&- 2>&-"):
        done = subprocess.run(["bash", "-c", f"{command} {closed}"], env=runs.environment(), cwd=runs.ROOT, timeout=60,
                              check=False)  # fmt: skip
        assert done.returncode == 0, closed
    assert len(captions(tmp_path / "out")) == 300


def test_a_stop_with_nothing_left_to_do_is_a_finished_run(tmp_path):
    empty_pictures(tmp_path / "in", 8)
    process = start(tmp_path / "in", "--output", tmp_path / "out", "--model", "null:150")
    deadline = time.monotonic() + 30
    while not workers_of(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGINT)
    stdout, _ = process.communicate(timeout=30)
    done = len(captions(tmp_path / "out"))
    assert (process.returncode, "Finished" in stdout) == ((0, True) if done == 8 else (130, False))
