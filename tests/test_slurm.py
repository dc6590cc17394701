"""scripts/examples/slurm.sh, with an srun that starts the command here and an scontrol that notes what it is asked."""

import os
import signal
import subprocess

import pytest

from tests.runs import ROOT, captions, empty_pictures, environment, run_file, wait_for_rows

SCRIPT = ROOT / "scripts" / "examples" / "slurm.sh"
SRUN = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'


@pytest.fixture
def task(tmp_path):
    """Starts task 1 of an array over 200 pictures, each of which takes 20 ms."""
    empty_pictures(tmp_path / "in", 200)
    for name, script in {"srun": SRUN, "scontrol": f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n'}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)

    def start(**more):
        words = ["bash", SCRIPT, tmp_path / "in", "--output", tmp_path / "out", "--model", "null:20"]
        path = f"{tmp_path / 'bin'}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
        slurm = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "4242", "SLURM_CPUS_PER_TASK": "2", "SHARDS": "2"}
        return subprocess.Popen(
            words, env=environment(PATH=path, **slurm | more), cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


def test_a_task_whose_time_is_nearly_up_stops_in_order_is_queued_again_and_goes_on(task, tmp_path):
    out = tmp_path / "out" / "shard-0001-of-0002"
    first = task()
    wait_for_rows(out, 5)
    first.send_signal(signal.SIGUSR1)
    said, _ = first.communicate(timeout=30)
    assert first.returncode == 143, said
    assert (tmp_path / "asked").read_text() == "requeue 4242\n"
    assert run_file(out)["runs"][-1]["exit_code"] == 143
    done = len(captions(out))
    again = task()
    said, _ = again.communicate(timeout=30)
    assert again.returncode == 0 and f"{done} done before" in said
    assert (tmp_path / "asked").read_text() == "requeue 4242\n"


def test_a_cancelled_task_stops_in_order_and_is_not_queued_again(task, tmp_path):
    process = task()
    wait_for_rows(tmp_path / "out" / "shard-0001-of-0002", 5)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 143 and "Stopped by SIGTERM" in said
    assert not (tmp_path / "asked").exists()


def test_without_the_number_of_shards_nothing_begins(task, tmp_path):
    process = task(SHARDS="")
    said, _ = process.communicate(timeout=30)
    assert process.returncode != 0 and "say how many shards" in said and not (tmp_path / "out").exists()
