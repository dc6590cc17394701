"""Monitor and RAM: figures from faked drivers and control groups; what fails or hangs costs figures and no more."""

import os
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from caption import monitor
from caption.devices import Seat
from caption.monitor import GpuLoad, Load, MachineLoad, Monitor, ProcessLoad
from caption.ram import ram
from caption.snapshot import WorkerSnapshot

SEATS = [Seat("gpu0", "cuda", "GPU-a", None, 1), Seat("gpu1", "cuda", "GPU-b", None, 1)]
GB = 10**9


class Driver:
    """Stands in for pynvml: the calls that Monitor makes, of GPUs that are all alike but for ``broken`` answers."""

    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, broken=(), processes=(), used=10 * GB, reasons=0x4):
        self.broken, self.reasons, self.used = set(broken), reasons, used
        self.processes = [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in processes]
        self.hang = threading.Event()


    def nvmlInit(self):
        if "nvmlInit" in self.broken:
            raise Driver.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid in self.broken:
            raise Driver.NVMLError("GPU is lost")
        return uuid

    def nvmlDeviceGetTemperatureThreshold(self, handle, kind):
        return 90

    def nvmlDeviceGetMemoryInfo(self, handle):
        if handle in self.broken:
            raise Driver.NVMLError("GPU is lost")
        return SimpleNamespace(used=self.used, total=80 * GB)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=0)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.reasons

    def nvmlDeviceGetTemperature(self, handle, sensor):
        if "hang" in self.broken:
            self.hang.wait(30)
        return 67

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return self.processes


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """watched(driver, pids): the load after a reading or two."""
    opened = []
    monkeypatch.setattr(monitor, "_EVERY", 0.01)

    def watch(driver, pids=None, want=lambda load: load.machine and load.gpus):
        opened.append(Monitor(SEATS, tmp_path, driver))
        given = pids or {}
        workers = [WorkerSnapshot(one.name, "ready", "", pid=given.get(one.name), gpus=(one.visible,)) for one in SEATS]
        return latest(opened[-1], workers, want)

    yield watch
    for one in opened:
        one.close()


def latest(watching, workers, want):
    deadline = time.monotonic() + 10
    while not want(load := watching.read(workers)):
        assert time.monotonic() < deadline, load
        time.sleep(0.01)
    return load


def test_a_gpu_with_all_its_figures_and_one_that_idles_is_not_one_without_an_answer(watched):
    load = watched(Driver())
    assert load.gpus["GPU-a"] == load.gpus["GPU-b"]
    assert load.gpus["GPU-a"] == GpuLoad(0, 10 * GB, 80 * GB, 67, 90, False, others=10 * GB)


@pytest.mark.parametrize("call, field", [
    ("nvmlDeviceGetUtilizationRates", "use"),
    ("nvmlDeviceGetTemperature", "celsius"),
    ("nvmlDeviceGetTemperatureThreshold", "slow_celsius"),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", "slowed"),
])  # fmt: skip
def test_a_call_that_this_driver_does_not_support_costs_its_figure_alone(watched, call, field):
    class Lacking(Driver):
        pass

    def fail(*_):
        raise Driver.NVMLError("Not Supported")

    setattr(Lacking, call, fail)
    found = watched(Lacking()).gpus["GPU-a"]
    assert getattr(found, field) is None and found.total == 80 * GB


def test_a_pynvml_that_lacks_what_newer_ones_have_gives_the_rest(watched):
    class Old(Driver):
        nvmlDeviceGetComputeRunningProcesses = NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = property()

    found = watched(Old()).gpus["GPU-a"]
    assert (found.use, found.celsius, found.slow_celsius) == (0, 67, None)


def test_a_lost_gpu_is_missing_and_the_other_is_there(watched):
    assert list(watched(Driver(broken=["GPU-a"])).gpus) == ["GPU-b"]


def test_without_a_driver_the_machine_is_still_watched(watched):
    load = watched(Driver(broken=["nvmlInit"]), want=lambda load: load.machine)
    assert load.gpus == {} and load.machine.ram_total > 0 and load.machine.disk_free > 0


def test_a_driver_that_hangs_holds_nobody_up_and_its_old_figures_are_dropped(watched, monkeypatch, tmp_path):
    driver = Driver()
    monkeypatch.setattr(monitor, "_EVERY", 0.01)
    monkeypatch.setattr(monitor, "_STALE", 0.5)
    watching = Monitor(SEATS, tmp_path, driver)
    try:
        assert latest(watching, [], lambda load: load.gpus)
        driver.broken.add("hang")
        latest(watching, [], lambda load: not load.gpus)
        begin = time.monotonic()
        for _ in range(100):
            assert watching.read([]).machine
        assert time.monotonic() - begin < 1
    finally:
        watching.close()
        driver.hang.set()


def test_the_machine_and_the_workers_by_their_processes(watched):
    pids = {"gpu0": os.getpid(), "gpu1": 2**22 + 1}
    load = watched(Driver(), pids, lambda load: load.machine and load.machine.workers)
    assert load.machine.workers["gpu0"].ram > 10_000_000
    assert "gpu1" not in load.machine.workers, "it has just ended"


def test_a_model_on_two_gpus_shows_them_as_one():
    worker = WorkerSnapshot("gpu0+1", "ready", "generating", gpus=("a", "b"))
    load = Load(None, {"a": GpuLoad(90, 10, 80, 60), "b": GpuLoad(50, 20, 80, None), "c": GpuLoad(1, 1, 1, 99)})
    assert load.of_gpus(worker) == GpuLoad(70, 30, 160, 60)
    assert Load(None, {"b": load.gpus["b"]}).of_gpus(worker) == load.gpus["b"]
    assert Load().of_gpus(worker) is None


def test_each_gpu_of_a_seat_is_watched(tmp_path):
    watching = Monitor([Seat("gpu0+1", "cuda", "GPU-a,GPU-b", None, 1)], tmp_path, Driver())
    try:
        assert set(latest(watching, [], lambda load: load.gpus).gpus) == {"GPU-a", "GPU-b"}
    finally:
        watching.close()


@pytest.mark.parametrize("processes, others", [
    ([(7, 30 * GB)], 0),  # the worker alone
    ([(7, 30 * GB), (8, 20 * GB), (9, 2 * GB)], 22 * GB),
    ([(7, 30 * GB), (8, None)], 0),  # a driver that does not tell memory
    ([], 500),  # not there yet: what was taken before it came
    ([(70, 30 * GB)], 500),  # a container that counts processes otherwise: it is the worker
    ([(70, 30 * GB), (80, 20 * GB)], 20 * GB),
])  # fmt: skip
def test_memory_that_others_hold(watched, processes, others):
    driver = Driver(processes=processes, used=500)
    watched(driver, {"gpu0": 7}, lambda load: load.gpus and load.gpus["GPU-a"].others == others)


@pytest.mark.parametrize("reasons, slowed", [(0x0, False), (0x4, False), (0x20, True), (0x44, True)])
def test_a_gpu_slowed_by_heat_is_told_from_one_slowed_by_its_power_limit(watched, reasons, slowed):
    assert watched(Driver(reasons=reasons)).gpus["GPU-a"].slowed is slowed


def group(folder, limit, used, cache=0, names=("memory.max", "memory.current", "inactive_file")):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


def test_the_limit_of_a_container_counts_and_its_cache_is_free(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/jobs/one\n")
    group(tmp_path / "jobs", 8_000_000, 7_000_000, 2_000_000)
    group(tmp_path / "jobs" / "one", "max", 6_000_000)
    assert ram(tmp_path, own) == (5_000_000, 8_000_000)


def test_the_tightest_of_several_limits_counts_also_of_the_first_version(tmp_path):
    own = tmp_path / "own"
    own.write_text("5:cpu,memory:/slurm/job\n1:name=systemd:/\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    group(tmp_path / "memory", 9223372036854771712, 1, names=names)
    group(tmp_path / "memory" / "slurm", 9_000_000, 1_000_000, names=names)
    group(tmp_path / "memory" / "slurm" / "job", 5_000_000, 2_000_000, names=names)
    assert ram(tmp_path, own) == (2_000_000, 5_000_000)


def test_without_limits_or_groups_it_is_the_machine(tmp_path):
    total = psutil.virtual_memory().total
    assert ram(tmp_path, tmp_path / "none")[1] == total
    (tmp_path / "own").write_text("0::/\nnonsense\n")
    assert ram(tmp_path, tmp_path / "own")[1] == total


def test_a_worker_of_another_machine_is_shown_by_the_figures_from_there(tmp_path):
    there = Load(MachineLoad(90.0, 8, 9, 10, {"": ProcessLoad(50.0, 1000)}), {"GPU-far": GpuLoad(use=80)})
    far = WorkerSnapshot("n1gpu0", "ready", "generating", gpus=("GPU-far",), load=there)
    monitor = Monitor([Seat("n1gpu0", "cuda", "", None, 1, host="n1")], tmp_path)
    deadline = time.monotonic() + 10
    while not (load := monitor.read([far])).machine:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    monitor.close()
    assert load.machine.workers == {"n1gpu0": ProcessLoad(50.0, 1000)}
    assert load.of_gpus(far).use == 80
    assert load.machine.disk_free > 10, "the disk is the one that rows are written to"
