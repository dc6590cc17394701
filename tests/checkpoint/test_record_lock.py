"""One run a folder, and no dead run in the way of the next."""

import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from jobs import CAPTIONS, opened, reopened, rows

import checkpoint
from checkpoint import disk, lock

HOLD = """
import sys, time
from pathlib import Path
import checkpoint
record = checkpoint.open(Path(sys.argv[1]), {"model": "shapes", "seed": 0})
record.append("captions.jsonl", [("a", b'{"id":"a"}')])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(out):
    root = Path(checkpoint.__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", HOLD, out], cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_refused_and_told_who_holds_the_folder(out, holder):
    with pytest.raises(checkpoint.Busy) as caught:
        opened(out)
    assert (caught.value.holder.pid, caught.value.holder.host) == (holder.pid, socket.gethostname())
    assert f"process {holder.pid} on {socket.gethostname()} since 20" in str(caught.value)
    assert checkpoint.read(out).alive
    assert checkpoint.read(out).holder == caught.value.holder


def test_after_kill_9_of_the_holder_the_next_run_starts_at_once(out, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    view = checkpoint.read(out)
    assert (view.alive, view.holder.pid) == (False, holder.pid)
    assert reopened(out)[CAPTIONS] == {"a": b'{"id":"a"}'}


def test_a_run_refuses_a_second_one_of_its_own_process(out):
    with opened(out), pytest.raises(checkpoint.Busy):
        opened(out)
    opened(out).close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_do_not_keep_the_lock_of_a_run_that_is_gone(out, method):
    record = opened(out)
    child = multiprocessing.get_context(method).Process(target=time.sleep, args=(30,))
    child.start()
    try:
        time.sleep(0.1)
        record._cause = "the run dies without a word"
        os.close(record._lock._fd)
        assert not checkpoint.read(out).alive
        opened(out).close()
    finally:
        child.kill()
        child.join()


def test_looking_at_a_record_never_makes_a_run_fail_to_start(out):
    """`read` holds the lock for an instant."""
    opened(out).close()
    fd = os.open(out / "checkpoint/lock", os.O_RDONLY)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        os.close(fd) if len(waits) == 1 else None

    disk.flock(fd, lock.fcntl.LOCK_SH)
    with pytest.MonkeyPatch.context() as patch:
        # Of that module alone: threads that other tests have left behind sleep too.
        patch.setattr(lock, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic, time=time.time))
        opened(out).close()
    assert len(waits) == 1


@pytest.mark.parametrize("change", ["taken over", "emptied", "removed"])
def test_a_run_whose_lock_was_taken_over_stops_at_its_next_commit(out, change):
    """Locks that do not reach another machine are found out here."""
    record = opened(out)
    path = out / "checkpoint/lock"
    if change == "taken over":
        path.write_bytes(path.read_bytes().replace(b'"pid":', b'"pid":1'))
    elif change == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    record.append(CAPTIONS, rows("a"))
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(checkpoint.Lost):
        record.commit()
    record.close()
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.fixture(params=sorted(lock.NO_LOCKS), ids=errno.errorcode.get)
def without_locks(request, monkeypatch):
    def flock(fd, operation):
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr(disk, "flock", flock)
    monkeypatch.setattr(lock.fcntl, "flock", flock)
    monkeypatch.setattr(lock, "SETTLE", 0.0)
    monkeypatch.setattr(lock, "HEARTBEAT", 0.0)


def test_without_locks_a_young_heartbeat_holds_the_folder(out, without_locks):
    record = opened(out)
    with pytest.raises(checkpoint.Busy, match=f"process {os.getpid()}"):
        opened(out)
    os.utime(out / "checkpoint/lock", (time.time() - 119,) * 2)
    assert checkpoint.read(out).alive
    os.utime(out / "checkpoint/lock", (time.time() - 121,) * 2)
    assert not checkpoint.read(out).alive
    record.beat()
    assert checkpoint.read(out).alive
    record.close()
    assert not checkpoint.read(out).alive
    opened(out).close()


def test_without_locks_a_run_that_slept_too_long_stops(out, without_locks):
    record = opened(out)
    os.utime(out / "checkpoint/lock", (time.time() - 121,) * 2)
    with opened(out):
        with pytest.raises(checkpoint.Lost):
            record.beat()
        with pytest.raises(checkpoint.Broken):
            record.append(CAPTIONS, rows("a"))
        record.close()
        assert checkpoint.read(out).alive
