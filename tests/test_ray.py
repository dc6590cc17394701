"""Runs on a real Ray: several nodes on this machine, one that is killed, one that joins, a driver that is killed."""

import os
import time
from pathlib import Path

import pytest

from tests.runs import (
    captions,
    empty_pictures,
    failures,
    kill_group,
    rows,
    run,
    start,
    wait_for_rows,
    wait_until_alone,
)  # fmt: skip

pytest.importorskip("ray", reason="the package ray is not installed")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def cluster():
    """Of a head that takes no work; nodes that a test adds stay for the next."""
    head = NODE | {"num_cpus": 0, "include_dashboard": False}
    ray = Cluster(initialize_head=True, head_node_args=head)
    yield ray
    ray.shutdown()


def command(cluster, folder, *more):
    where = ("--launcher", "ray", "--ray-address", cluster.address)
    return folder / "in", "--output", folder / "out", "--model", "null:50", "--batch-size", 4, *where, *more


def each_has_its_own(out, ids):
    found = captions(out)
    assert sorted(found) == ids and not failures(out)
    return all((row["caption"], row["attempts"]) == (id, 1) for id, row in found.items())


def workers_here():
    """Pids of the workers on this machine that actors have started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words, variables = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"caption.worker" in words and b"RAY_JOB_ID" in variables:
                found.append(int(entry.name))
    return found


def test_a_cluster_without_a_free_place_is_told_in_one_sentence(cluster, tmp_path):
    empty_pictures(tmp_path / "in", 1)
    done = run(*command(cluster, tmp_path))
    assert done.returncode == 5
    assert "of 0 CPUs on 1 node of the Ray cluster none is free" in done.stderr and done.stderr.count("\n") == 1


def test_a_node_that_is_killed_costs_no_image_a_try_and_one_that_joins_takes_its_part(cluster, tmp_path):
    ids = empty_pictures(tmp_path / "in", 400)  # time for a busy machine to start the third and tell of it
    first, _ = cluster.add_node(**NODE), cluster.add_node(**NODE)
    running = start(*command(cluster, tmp_path, "--stats-every", 20))
    try:
        wait_for_rows(tmp_path / "out", 20)
        cluster.remove_node(first, allow_graceful=False)
        cluster.add_node(**NODE)
        stdout, stderr = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, stdout + stderr
    assert each_has_its_own(tmp_path / "out", ids)
    assert "its node" in stderr and "is gone" in stderr and "joined" in stderr and "Traceback" not in stderr
    joined = [row for row in rows(tmp_path / "out" / "stats.jsonl") if row.get("worker") == "n3cpu0"]
    assert joined[-1]["done"] > 0
    # Not in each: what a busy machine has not told for some seconds is left out.
    assert any(row.get("ram_used", 0) > 0 for row in joined)


def test_the_workers_of_a_driver_that_is_killed_end_and_the_same_command_goes_on(cluster, tmp_path):
    ids = empty_pictures(tmp_path / "in", 120)
    if len(cluster.worker_nodes) < 2:
        cluster.add_node(**NODE)
    running = start(*command(cluster, tmp_path))
    wait_for_rows(tmp_path / "out", 20)
    assert workers_here()
    kill_group(running)
    done = run(*command(cluster, tmp_path))  # at once: Ray still holds the places of the one before
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stdout
    assert each_has_its_own(tmp_path / "out", ids)
    deadline = time.monotonic() + 20
    while workers_here():
        assert time.monotonic() < deadline, "workers outlive the driver"
        time.sleep(0.1)


def test_a_ray_that_is_started_for_the_run_ends_with_it(tmp_path):
    ids = empty_pictures(tmp_path / "in", 20)
    arguments = ("--output", tmp_path / "out", "--model", "null", "--launcher", "ray", "--workers", 2)
    running = start(tmp_path / "in", *arguments, RAY_ADDRESS="")
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 0, stderr
    assert "Ray     started on this machine for this run: 2 workers on 1 node" in stdout
    assert each_has_its_own(tmp_path / "out", ids)
    wait_until_alone(running, timeout=15)
