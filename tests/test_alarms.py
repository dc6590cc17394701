"""Alarms: each kind of trouble is said in time, once in a while, and not where there is none."""

import pytest

from caption.alarms import Alarms
from caption.monitor import GpuLoad, Load, MachineLoad
from caption.snapshot import Snapshot, WorkerSnapshot

GB = 10**9


def machine(ram_used=8 * GB, ram_total=64 * GB, disk_free=100 * GB, cpu=30.0):
    return MachineLoad(cpu, ram_used, ram_total, disk_free)


def run(late=0.0, seconds=100.0, to_come=0, workers=1, done=10):
    names = [f"gpu{number}" for number in range(workers)]
    return Snapshot(
        total=1000, before=0, done=done, failed=0, seconds=seconds, bytes_to_come=to_come,
        workers=[WorkerSnapshot(name, "ready", "generating", late=late, gpus=(f"GPU-{name}",)) for name in names],
    )  # fmt: skip


def said(snapshot=None, load=None, seconds=60):
    """All that is said while the same figures last."""
    alarms = Alarms("OUT", loaders=4)
    found = []
    for now in range(seconds):
        found += alarms.look(snapshot or run(), load or Load(machine()), now)
    return found


def test_nothing_is_said_of_a_run_that_is_well_or_of_figures_that_are_not_there():
    gpu = GpuLoad(99, 30 * GB, 80 * GB, 60, 90, False, 0)
    assert said(load=Load(machine(), {"GPU-gpu0": gpu})) == []
    assert said(run(to_come=50 * GB), Load(None, {"GPU-gpu0": GpuLoad()})) == []


def test_short_ram_is_said_at_once_with_what_to_do():
    [sentence] = said(load=Load(machine(ram_used=62 * GB)), seconds=1)
    assert sentence == (
        "Warning: RAM is short, 2.0 GB of 64 GB are left: stop (Ctrl-C) and go on with fewer --loaders "
        "(now 4 a worker), or end other programs."
    )
    assert said(load=Load(machine(ram_used=60 * GB))) == []


def test_a_small_limit_on_ram_is_no_alarm_by_itself():
    assert said(load=Load(machine(ram_used=GB, ram_total=2 * GB))) == []


def test_a_disk_too_small_for_the_captions_to_come_is_said_before_it_is_full():
    [sentence] = said(run(to_come=3 * GB), Load(machine(disk_free=2 * GB)))
    assert sentence == (
        "Warning: the disk of OUT has 2.0 GB left, and the captions to come take about 3.0 GB: free some before it is "
        "full."
    )
    assert said(run(to_come=3 * GB), Load(machine(disk_free=4 * GB))) == []


def test_a_disk_that_is_nearly_full_is_said_though_nothing_is_known_of_the_rest():
    [sentence] = said(run(to_come=0), Load(machine(disk_free=10**8)))
    assert sentence == "Warning: the disk of OUT has 100 MB left: free some before it is full."
    assert said(run(done=1000), Load(machine(disk_free=10**8))) == [], "nothing is to come"


@pytest.mark.parametrize("gpu, slow", [
    (GpuLoad(celsius=88, slow_celsius=90), "is about to slow itself down"),
    (GpuLoad(celsius=70, slow_celsius=None, slowed=True), "slows itself down"),
])  # fmt: skip
def test_a_hot_gpu_is_said_after_five_seconds(gpu, slow):
    load = Load(machine(), {"GPU-gpu1": gpu})
    [sentence] = said(run(workers=2), load)
    assert sentence == f"Warning: gpu1 ({gpu.celsius} °C) is so hot that it {slow}: look after its cooling."
    assert said(run(workers=2), load, seconds=5) == []


def test_a_gpu_that_others_use_is_said_and_the_drivers_own_memory_is_not():
    [sentence] = said(load=Load(machine(), {"GPU-gpu0": GpuLoad(total=80 * GB, others=20 * GB)}))
    assert sentence.startswith("Warning: other programs hold memory of gpu0 (20 GB): ")
    assert said(load=Load(machine(), {"GPU-gpu0": GpuLoad(total=80 * GB, others=GB)})) == []


def test_late_pictures_name_the_option():
    [sentence] = said(run(late=0.4), Load(machine(), {"GPU-gpu0": GpuLoad()}))
    assert sentence == "Warning: the GPU waits for pictures 40 % of the time: raise --loaders (now 4)."
    [sentence] = said(run(late=0.4, workers=3))
    assert sentence == "Warning: gpu0 and 2 more wait for pictures 40 % of the time: raise --loaders (now 4)."


def test_late_pictures_with_all_cores_busy_are_not_to_be_mended_by_loaders():
    [sentence] = said(run(late=0.4), Load(machine(cpu=99.0)))
    assert "all cores are busy, so more --loaders (now 4) do not help" in sentence


def test_the_first_pictures_of_a_run_are_no_alarm():
    assert said(run(late=0.9, seconds=40)) == []


def test_a_trouble_of_a_moment_is_not_said():
    alarms, hot = Alarms("OUT", 4), Load(machine(), {"GPU-gpu0": GpuLoad(slowed=True)})
    for now in range(60):
        assert alarms.look(run(), hot if now % 5 else Load(machine()), now) == []


def test_the_same_is_said_once_in_half_an_hour_and_another_in_between():
    alarms, short = Alarms("OUT", 4), Load(machine(ram_used=63 * GB))
    times = [now for now in range(4000) if alarms.look(run(), short, now)]
    assert times == [0, 1800, 3600]
    [other] = alarms.look(run(), Load(machine(ram_used=63 * GB, disk_free=0)), 4000)
    assert "disk" in other
