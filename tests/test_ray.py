"""Runs on a real Ray: several nodes on this machine, one that is killed, one that joins, a driver that is killed."""

import os
import time

import pytest

from tests.runs import captions, empty_pictures, failures, kill_group, run, start, wait_for_rows

pytest.importorskip("ray", reason="the package ray is not installed")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def cluster():
    """Of a head that takes no work."""
    head = NODE | {"num_cpus": 0, "include_dashboard": False}
    ray = Cluster(initialize_head=True, head_node_args=head)
    yield ray
    ray.shutdown()


def arguments(cluster, pictures, out, *more):
    where = ("--launcher", "ray", "--ray-address", cluster.address)
    return pictures, "--output", out, "--model", "null:50", "--batch-size", 4, *where, *more


def each_has_its_own(out, ids):
    rows = captions(out)
    assert sorted(rows) == ids
    return all(row["caption"] == id for id, row in rows.items())


def log_of(out):
    return (out / "run.log").read_text()


def workers_here():
    """Pids of all worker processes on this machine that a Ray of this test has started."""
    from pathlib import Path

    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command, variables = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"caption.worker" in command and b"RAY_JOB_ID" in variables:
                found.append(int(entry.name))
    return found


def test_a_cluster_without_a_free_place_is_told_in_one_sentence(cluster, tmp_path):
    empty_pictures(tmp_path / "in", 1)
    done = run(*arguments(cluster, tmp_path / "in", tmp_path / "out"))
    assert done.returncode == 5
    assert "of 0 CPUs on 1 node of the Ray cluster none is free" in done.stderr and done.stderr.count("\n") == 1


def test_a_node_is_killed_and_one_joins_in_the_middle_of_a_run(cluster, tmp_path):
    ids = empty_pictures(tmp_path / "in", 300)
    first, second = cluster.add_node(**NODE), cluster.add_node(**NODE)
    running = start(*arguments(cluster, tmp_path / "in", tmp_path / "out"))
    try:
        wait_for_rows(tmp_path / "out", 40)
        cluster.remove_node(first, allow_graceful=False)
        third = cluster.add_node(**NODE)
        stdout, stderr = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, stdout + stderr
    print(stdout, stderr, log_of(tmp_path / "out"))
    assert each_has_its_own(tmp_path / "out", ids)
    assert not failures(tmp_path / "out")
    cluster.remove_node(second)
    cluster.remove_node(third)


def test_after_the_driver_is_killed_its_workers_end_and_the_same_command_goes_on(cluster, tmp_path):
    ids = empty_pictures(tmp_path / "in", 200)
    node = cluster.add_node(**NODE | {"num_cpus": 2})
    command = arguments(cluster, tmp_path / "in", tmp_path / "out", "--workers", 2)
    killed = start(*command)
    wait_for_rows(tmp_path / "out", 20)
    assert len(workers_here()) == 2
    kill_group(killed)
    done = run(*command)
    print(done.stdout, done.stderr, log_of(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert each_has_its_own(tmp_path / "out", ids)
    deadline = time.monotonic() + 10
    while workers_here():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    cluster.remove_node(node)
