"""Metrics: what Prometheus reads is what the run shows; a port or package that is missing is one sentence."""

import signal
import socket
import sys
import time
import urllib.request
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from caption.errors import UsageError
from caption.metrics import Metrics
from caption.monitor import GpuLoad, Load, MachineLoad
from caption.snapshot import Snapshot, WorkerSnapshot
from tests.runs import empty_pictures, kill_group, run, start, wait_for_rows


def free_port():
    with socket.socket() as sock:
        sock.bind(("", 0))
        return sock.getsockname()[1]


def read(port):
    """The served samples: {(name, label values in the order of the labels' names): value}."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value for sample in samples}


@pytest.fixture
def served():
    port = free_port()
    metrics = Metrics(port)
    yield metrics, port
    metrics.close()


def test_all_figures_are_served_with_names_and_units_of_prometheus(served):
    metrics, port = served
    assert read(port) == {}, "nothing is known yet"
    workers = [WorkerSnapshot("gpu0", "ready", "generating", 90, 3, {"generating": 8.5})]
    snapshot = Snapshot(
        1000, 100, 90, 3, workers, 7, 10.0, 5000, Counter(Truncated=3), Counter({"cut-off": 7}), rate=9.5, pace=9.5
    )
    metrics.show(snapshot, Load(MachineLoad(25.0, 8, 64, 99), {"GPU-a": GpuLoad(98, 60, 80, None)}))
    assert read(port) == {
        ("caption_images_total", "captioned"): 90,
        ("caption_images_total", "failed"): 3,
        ("caption_failures_total", "Truncated"): 3,
        ("caption_flags_total", "cut-off"): 7,
        ("caption_flagged_images",): 7,
        ("caption_input_images",): 1000,
        ("caption_images_before",): 100,
        ("caption_images_per_second",): 9.5,
        ("caption_seconds_left",): pytest.approx(807 / 9.5),
        ("caption_disk_to_come_bytes",): 5000,
        ("caption_worker_ready", "gpu0"): 1,
        ("caption_worker_images_total", "captioned", "gpu0"): 90,
        ("caption_worker_images_total", "failed", "gpu0"): 3,
        ("caption_worker_seconds_total", "generating", "gpu0"): 8.5,
        ("caption_cpu_ratio",): 0.25,
        ("caption_ram_used_bytes",): 8,
        ("caption_ram_total_bytes",): 64,
        ("caption_disk_free_bytes",): 99,
        ("caption_gpu_ratio", "GPU-a"): 0.98,
        ("caption_gpu_memory_used_bytes", "GPU-a"): 60,
        ("caption_gpu_memory_total_bytes", "GPU-a"): 80,
    }


def test_a_port_in_use_is_one_sentence_before_anything_is_loaded(tmp_path, served):
    _, port = served
    empty_pictures(tmp_path / "in", 1)
    out = tmp_path / "out"
    done = run(tmp_path / "in", "--output", out, "--model", "null", "--metrics-port", port)
    assert done.returncode == 2
    assert done.stderr == f"caption: --metrics-port {port}: it is in use: choose another port.\n"
    assert not (out / "run.json").exists()


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError, match="prometheus_client: pip install prometheus_client"):
        Metrics(free_port())


def test_a_run_serves_while_it_goes_on_and_lets_go_of_the_port(tmp_path):
    empty_pictures(tmp_path / "in", 20_000)
    port = free_port()
    going = start(tmp_path / "in", "--output", tmp_path / "out", "--model", "null:2", "--metrics-port", port)
    try:
        wait_for_rows(tmp_path / "out", 100)
        time.sleep(0.5)  # figures are passed on five times a second
        found = read(port)
        assert 100 <= found["caption_images_total", "captioned"] <= 20_000
        assert found["caption_input_images",] == 20_000
        going.send_signal(signal.SIGINT)
        going.communicate(timeout=60)
    finally:
        kill_group(going) if going.poll() is None else None
    with pytest.raises(OSError):
        read(port)
