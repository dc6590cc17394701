"""How long a GPU stood still because the host came late: by the GPU's clock, and only where the host is the reason."""

import time

import pytest
import torch

from caption.engine import load_engine
from caption.engine.standstill import Standstill

from .helpers import options
from .test_slots import requests_for, texts


class Device:
    """Takes 3 seconds for a turn's work, and is as far as `until` says."""

    def __init__(self, monkeypatch):
        self.now, self.free, self.until = 0.0, 0.0, float("inf")
        device = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.time = max(device.now, device.free)

            def query(self):
                return self.time <= device.until

            def elapsed_time(self, later):
                assert self.query() and later.query(), "what has not happened has no time"
                return 1e3 * (later.time - self.time)

        monkeypatch.setattr(torch.cuda, "Event", Event)

    def work(self):
        self.free = max(self.now, self.free) + 3


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


def turn(device, standstill, at):
    device.now = at
    standstill.begins()
    standstill.begins()  # on the way to its second part
    device.work()
    standstill.ends()


def test_a_host_that_is_ahead_costs_nothing_and_one_that_is_late_what_it_is_late(device):
    standstill = Standstill()
    for at, seconds in ((0, 0), (1, 0), (2, 0), (9.5, 0.5), (12.5, 0.5), (17.5, 2.5)):
        turn(device, standstill, at)
        assert standstill.seconds == pytest.approx(seconds)


def test_what_the_device_has_not_come_to_is_read_later(device):
    standstill, device.until = Standstill(), 4
    for at in (0, 5, 10):
        turn(device, standstill, at)
    assert standstill.seconds == 0
    device.until = 100
    turn(device, standstill, 13)
    assert standstill.seconds == pytest.approx(2 + 2)


def test_an_engine_that_was_empty_is_late_for_other_reasons(device):
    standstill = Standstill()
    turn(device, standstill, 0)
    standstill.forget()
    turn(device, standstill, 60)
    turn(device, standstill, 64)
    assert standstill.seconds == pytest.approx(1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_pauses_of_a_host_are_those_that_the_engine_tells_of(checkpoint, monkeypatch):
    engine = load_engine(options(checkpoint("llava"), device="cuda", batch_size=2, max_new_tokens=16))
    requests = requests_for(engine.options.model, "llava", 4)
    texts(engine, requests)
    step, pauses, begin, started = engine.step, [], engine.late_seconds, time.monotonic()

    def slow_step():
        torch.cuda.synchronize()
        time.sleep(0.05)
        pauses.append(0.05)
        return step()

    monkeypatch.setattr(engine, "step", slow_step)
    texts(engine, requests)
    # The first has nothing before it, and the last no turn behind it that would read it.
    assert sum(pauses[2:]) <= engine.late_seconds - begin <= time.monotonic() - started
