"""Lookout and stats.jsonl: paces over a minute, and entries neither too often nor too seldom."""

import io
import json
from functools import partial
from types import SimpleNamespace

import pytest

from caption import lookout, statsfile
from caption.devices import Seat
from caption.log import log_into
from caption.lookout import Lookout, Rate
from caption.monitor import GpuLoad, Load, MachineLoad, ProcessLoad
from caption.schedule import Rounds
from caption.settings import Settings
from caption.snapshot import Snapshot, WorkerSnapshot
from caption.statsfile import StatsFile
from tests.runs import empty_pictures, rows, run


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return 1_700_000_000 + self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(lookout, "time", clock)
    monkeypatch.setattr(statsfile, "time", clock)
    return clock


def snapshot(done, failed=0, **more):
    workers = [WorkerSnapshot("gpu0", "ready", "generating", done, failed, {"generating": done / 10}, 7, ("GPU-a",))]
    return Snapshot(1000, 100, done, failed, workers, **more)


def test_a_rate_is_that_of_the_last_minute():
    rate = Rate()
    assert rate.add(0, 0) == 0
    assert rate.add(10, 100) == 10
    for now in range(11, 100):
        latest = rate.add(now, 100 + 2 * (now - 10))
    assert latest == pytest.approx(2)


def test_a_rate_keeps_a_point_a_second_and_is_right_in_between():
    rate = Rate()
    for step in range(100_000):
        latest = rate.add(step / 1000, step)
    assert latest == pytest.approx(1000, rel=0.02)
    assert len(rate._points) < 70


def entries(folder):
    return [row for row in rows(folder / "stats.jsonl") if "worker" not in row]


@pytest.mark.parametrize("every, pace, seconds, expected", [
    (50, 1000, 60, 60),  # fast: one a second
    (50, 10, 60, 12),  # every 50 images
    (50, 1, 60, 6),  # slow: one in ten seconds
    (1, 0.5, 60, 30),
])  # fmt: skip
def test_entries_come_after_so_many_images_but_not_twice_a_second_and_at_least_in_ten(
    tmp_path, clock, every, pace, seconds, expected
):
    stats = StatsFile(tmp_path, 1, every)
    for step in range(10 * seconds + 1):
        done = int(step / 10 * pace)
        if stats.due(done):
            stats.add(snapshot(done), Load())
        clock.now += 0.1
    stats.close()
    assert len(entries(tmp_path)) == pytest.approx(expected, abs=max(1, expected * 0.1))


def test_an_entry_has_every_field_that_its_description_names(tmp_path, clock):
    gpu = GpuLoad(98, 60, 80, 67)
    load = Load(MachineLoad(50.0, 1, 2, 3, {"gpu0": ProcessLoad(99.0, 5)}), {"GPU-a": gpu})
    stats = StatsFile(tmp_path, 3, 50)
    clock.now += 10
    rounds = Rounds(begun=4, last=0.25)
    stats.add(snapshot(40, 2, flagged=1, seconds=8.0, bytes_to_come=9, rate=5.0, rounds=rounds), load)
    stats.close()
    run_row, worker_row = rows(tmp_path / "stats.jsonl")
    assert run_row == {
        "time": 1_700_001_010.0, "run": 3, "seconds": 8.0, "total": 1000, "before": 100, "images": 42, "failures": 2,
        "flagged": 1, "errors": {}, "flags": {}, "images_per_second": 4.2, "images_per_second_minute": 5.0,
        "images_per_second_run": 5.25, "disk_to_come": 9, "cpu_percent": 50.0, "ram_used": 1, "ram_total": 2,
        "disk_free": 3, "round": 4, "drift": 0.25,
    }  # fmt: skip
    assert worker_row == {
        "time": 1_700_001_010.0, "worker": "gpu0", "state": "ready", "stage": "generating", "done": 40, "failed": 2,
        "images_per_second": 0.0, "seconds": {"generating": 4.0}, "cpu_percent": 99.0, "ram_used": 5,
        "gpu_percent": 98, "gpu_memory_used": 60, "gpu_memory_total": 80, "gpu_celsius": 67,
    }  # fmt: skip
    for name in (*run_row, *worker_row):
        assert f"``{name}``" in statsfile.__doc__, name


def test_a_torn_entry_of_a_killed_run_is_not_glued_to(tmp_path, clock):
    (tmp_path / "stats.jsonl").write_text('{"time":1}\n{"time":2,"wor')
    stats = StatsFile(tmp_path, 2, 50)
    stats.add(snapshot(1), Load())
    stats.close()
    lines = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert lines[1] == '{"time":2,"wor' and json.loads(lines[2])["run"] == 2


def test_the_last_figures_are_an_entry_in_any_case(tmp_path):
    empty_pictures(tmp_path / "in", 7)
    out = tmp_path / "out"
    for limit in (3, 7):
        assert run(tmp_path / "in", "--output", out, "--model", "null", "--limit", limit).returncode == 0
    first, *_, last = entries(out)
    assert (first["run"], first["images"], first["before"], first["total"]) == (1, 3, 0, 3)
    assert (last["run"], last["images"], last["before"], last["total"]) == (2, 4, 3, 7)
    assert last["disk_free"] > 0 and last["ram_total"] > 0


class Watched:
    """Stands in for the monitor: its load never changes."""

    def __init__(self, load):
        self.load = load

    def read(self, workers):
        return self.load

    def close(self):
        pass


@pytest.fixture
def looking(tmp_path, clock, monkeypatch):
    """A lookout whose machine is short of RAM."""
    heard = io.StringIO()
    monkeypatch.setattr(lookout, "sys", SimpleNamespace(stderr=heard))
    monkeypatch.setattr(lookout, "Monitor", lambda seats, out: Watched(Load(MachineLoad(0, 99, 100, 10**12))))
    one = Lookout(Settings(output=str(tmp_path)), [Seat("gpu0", "cuda", "", None, 4)], 1)
    one.heard = heard
    yield one
    one.close()


def test_it_asks_for_figures_five_times_a_second_however_often_it_is_called(looking, clock):
    asked = []
    for _ in range(1000):
        looking.look(lambda: asked.append(1) or snapshot(1))
        clock.now += 0.01
    assert 45 <= len(asked) <= 51


def test_a_warning_is_shown_and_logged_and_the_pace_counts_from_the_begin(looking, clock, tmp_path):
    with log_into(tmp_path / "log", "text"):
        looking.look(lambda: snapshot(0))
        clock.now += 600  # the model loads
        for second in range(31):
            looking.look(partial(snapshot, second * 4, seconds=second + 0.1))
            clock.now += 1
        looking.look(lambda: snapshot(124, seconds=31.0), last=True)
    shown = looking.heard.getvalue().splitlines()
    assert sum("RAM is short" in line for line in shown) == 1
    assert shown[-1] == "224/1,000 images, 4.00/s (4.00/s in all), 0 failed, 0 flagged", "without a time left"
    log = (tmp_path / "log").read_text()
    assert "WARNING run    Warning: RAM is short" in log and "gpu0   ready, process 7" in log
    last = entries(tmp_path)[-1]
    assert (last["images_per_second_minute"], last["images_per_second_run"]) == (4.0, 4.0)


def test_the_time_left_does_not_count_what_passed_before_the_first_had_ended(looking, clock):
    shown = []
    looking._progress.show = lambda snapshot, load, last: shown.append(snapshot)
    for second in range(31):  # nothing for 10 s, then an image a second
        looking.look(partial(snapshot, max(0, second - 10), seconds=second + 0.1))
        clock.now += 1
    assert all(one.seconds_left is None for one in shown[:12])
    assert [shown[second].seconds_left for second in (12, 20, 30)] == pytest.approx([898, 890, 880])


def test_time_without_pictures_is_a_share_of_the_last_minute(looking, clock):
    shown = []
    looking._progress.show = lambda snapshot, load, last: shown.append(snapshot)
    for second in range(120):
        spent = {"generating": second * 0.7, "starved": second * 0.1, "preprocessing": second * 0.3}
        one = WorkerSnapshot("gpu0", "ready", "generating", second, 0, spent)
        looking.look(partial(Snapshot, 1000, 0, second, 0, [one], seconds=second + 0.1))
        clock.now += 1
    assert shown[-1].workers[0].late == pytest.approx(0.4)
