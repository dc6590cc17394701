"""Crew: seats and the processes on them, with real workers of the engine that computes nothing."""

import os
import signal
import time

import psutil
import pytest

from caption import crew as crew_module
from caption import process
from caption.crew import Crew, Died
from caption.devices import Seat
from caption.engine import EngineOptions
from caption.guard import GuardOptions
from caption.image import DecodeOptions
from caption.messages import Setup
from caption.process import Child
from caption.stall import StallWatch


def setup(seat):
    options = EngineOptions("null", "fp32", "cpu", 8, "Describe it.", 16)
    return Setup(seat.name, options, 1, DecodeOptions(1000, 1000), 10.0, GuardOptions("Describe it."))


@pytest.fixture
def make_crew():
    """make_crew(SEATS, …): a crew; its processes end with the test, also those that it has left behind."""
    crews, pids = [], []

    def make(seats=1, **more):
        crews.append(Crew([Seat(f"cpu{number}", "cpu", "", 1, 1) for number in range(seats)], setup, **more))
        crews[-1].pids = pids
        return crews[-1]

    yield make
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for crew in crews:
        crew.close()


def poll_until(crew, condition, timeout=30.0):
    """All that came until then."""
    found, deadline = [], time.monotonic() + timeout
    while not condition(found):
        assert time.monotonic() < deadline, found
        found += crew.poll(0.05)
    return found


def test_it_is_assembled_when_the_last_has_loaded(make_crew):
    crew, seen = make_crew(2), []
    while not crew.assembled:
        crew.poll(0.05)
        seen.append({member.state for member in crew.members})
        assert sum(member.state == "loading" for member in crew.members) <= 1, "one loads after the other"
    assert any(states & {"warming", "ready"} and states & {"loading", "waiting"} for states in seen)


def test_a_worker_that_not_even_a_kill_ends_is_left_behind_and_its_seat_gets_another(make_crew, monkeypatch):
    """As one that hangs inside a driver."""
    monkeypatch.setattr(crew_module, "LAST_SECONDS", 0.1)
    monkeypatch.setattr(process, "LAST_SECONDS", 0.1)
    crew = make_crew(watch=StallWatch(2))
    [member] = crew.members
    poll_until(crew, lambda _: member.state == "ready")
    crew.pids.append(member.child.pid)
    monkeypatch.setattr(Child, "kill", lambda self: None)
    os.kill(crew.pids[0], signal.SIGSTOP)
    events = poll_until(crew, lambda found: any(isinstance(event, Died) for _, event in found))
    [death] = [event for _, event in events if isinstance(event, Died)]
    assert "its process was stopped" in death.reason and death.blameless
    monkeypatch.undo()
    poll_until(crew, lambda _: member.state == "ready")
    assert member.child.pid != crew.pids[0]
    os.kill(crew.pids[0], signal.SIGCONT)  # it wakes up: nobody listens to it any more, so it ends
    left_behind, deadline = psutil.Process(crew.pids[0]), time.monotonic() + 20
    while left_behind.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_seat_is_not_given_up_because_somebody_ends_its_loads(make_crew, monkeypatch, sign):
    monkeypatch.setattr(crew_module, "LONGEST_PAUSE", 0.0)
    crew = make_crew(watch=StallWatch(2))
    [member] = crew.members
    for _ in range(crew_module.FAILED_LOADS):
        poll_until(crew, lambda _: member.state == "starting")
        os.kill(member.child.pid, sign)
        events = poll_until(crew, lambda found: any(isinstance(event, Died) for _, event in found))
        assert not events[-1][1].final
    poll_until(crew, lambda _: member.state == "ready")


@pytest.mark.parametrize(
    ("kills", "words"),
    [((7, 7), "was killed by SIGKILL, perhaps by the kernel for want of memory"),
     ((7, 8), "was killed by SIGKILL, most likely by the kernel for want of memory")],
)  # fmt: skip
def test_a_sigkill_is_told_with_its_likely_reason(make_crew, monkeypatch, tmp_path, kills, words):
    monkeypatch.setattr(process, "VMSTAT", tmp_path / "vmstat")
    process.VMSTAT.write_text(f"pgfault 12\noom_kill {kills[0]}\n")
    crew = make_crew()
    [member] = crew.members
    poll_until(crew, lambda _: member.state == "ready")
    process.VMSTAT.write_text(f"pgfault 13\noom_kill {kills[1]}\n")
    os.kill(member.child.pid, signal.SIGKILL)
    events = poll_until(crew, lambda found: any(isinstance(event, Died) for _, event in found))
    assert words in events[-1][1].reason


def test_a_seat_whose_worker_dies_each_time_gets_the_next_one_later_and_later(make_crew):
    crew = make_crew()
    [member] = crew.members
    pauses = []
    for _ in range(3):
        poll_until(crew, lambda _: member.state == "ready")
        os.kill(member.child.pid, signal.SIGKILL)
        begin = time.monotonic()
        poll_until(crew, lambda found: any(isinstance(event, Died) for _, event in found))
        poll_until(crew, lambda _: member.state != "pausing")
        pauses.append(time.monotonic() - begin)
    assert pauses[1] >= 0.9 and pauses[2] >= 1.9
