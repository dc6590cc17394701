"""GPUs: which of those that the driver shows are taken, and what is said of one that can't be. With a driver that a
file describes, and the engine that computes nothing on them."""

import json
import os
import signal
import sys

import pytest

from caption import gpus
from caption.devices import choose_seats
from caption.errors import NoWorkerLeft, UsageError
from caption.settings import Settings
from tests import runs
from tests.fakegpus import pynvml
from tests.runs import captions, empty_pictures

GIB = 1 << 30


def four_gpus(**changes):
    """Four GPUs of 80 GiB. changes: gpu2={"free": …}, init=…, hang=…"""
    free = [40, 70, 10, 60]
    found = [{"uuid": f"GPU-{'abcd'[i]}", "free": free[i] * GIB, "total": 80 * GIB} for i in range(4)]
    for name, change in changes.items():
        if name.startswith("gpu"):
            found[int(name[3:])] |= change
    return {"init": changes.get("init"), "hang": changes.get("hang"), "gpus": found}


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """driver(…): from now on the driver shows four GPUs, so changed."""
    file = tmp_path / "gpus.json"
    monkeypatch.setenv("FAKE_GPUS", str(file))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)

    def show(**changes):
        file.write_text(json.dumps(four_gpus(**changes)))
        return file

    show()
    return show


def seats(**settings):
    return [(seat.name, seat.visible) for seat in choose_seats(Settings(**settings))]


def test_all_gpus_are_taken_each_by_one_worker_that_sees_no_other(driver):
    assert seats() == [("gpu0", "GPU-a"), ("gpu1", "GPU-b"), ("gpu2", "GPU-c"), ("gpu3", "GPU-d")]


def test_a_list_is_taken_in_its_order_and_a_number_twice_once(driver):
    assert seats(gpus="2,0,2") == [("gpu2", "GPU-c"), ("gpu0", "GPU-a")]


def test_free_takes_those_with_the_most_free_memory_first(driver):
    assert [name for name, _ in seats(gpus="free", num_gpus=3)] == ["gpu1", "gpu3", "gpu0"]


def test_num_gpus_is_a_count_from_the_first(driver):
    assert [name for name, _ in seats(num_gpus=2)] == ["gpu0", "gpu1"]
    assert [name for name, _ in seats(gpus="3,1", num_gpus=1)] == ["gpu3"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("3,1", [("gpu0", "GPU-d"), ("gpu1", "GPU-b")]), ("GPU-c", [("gpu0", "GPU-c")]),
     ("1,7,2", [("gpu0", "GPU-b")])],
)  # fmt: skip
def test_numbers_count_within_cuda_visible_devices(driver, monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert seats() == expected


def test_no_driver_is_no_gpu(driver):
    driver(init=9)
    assert [seat.device for seat in choose_seats(Settings())] == ["cpu"]


def test_several_workers_share_what_is_free_of_their_gpu(driver):
    found = choose_seats(Settings(gpus="0,3", workers_per_gpu=2))
    assert [(seat.name, seat.visible) for seat in found] == [
        ("gpu0", "GPU-a"), ("gpu3", "GPU-d"), ("gpu0.2", "GPU-a"), ("gpu3.2", "GPU-d")
    ]  # fmt: skip
    assert [seat.memory_share for seat in found] == [0.25, 0.375, 0.25, 0.375]
    assert choose_seats(Settings(gpus="0"))[0].memory_share == 1.0


def test_loaders_are_shared_among_all_workers(driver, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(64))
    assert choose_seats(Settings())[0].loaders == 14
    assert choose_seats(Settings(workers_per_gpu=4))[0].loaders == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"gpus": "7"}, "there is no GPU 7"), ({"gpus": "0,4"}, "there are GPUs 0, 1, 2, 3"),
     ({"gpus": "some"}, "neither all, free nor numbers"), ({"num_gpus": 5}, "there are only 4"),
     ({"gpus": "0,1", "num_gpus": 3}, "there are only 2")],
)  # fmt: skip
def test_a_gpu_that_is_not_there_is_refused_in_a_sentence(driver, settings, words):
    with pytest.raises(UsageError, match=words):
        choose_seats(Settings(**settings))


FULL = {"free": GIB // 2}


@pytest.mark.parametrize("gpus", ["all", "free"])
def test_a_full_gpu_is_left_out_and_named(driver, capsys, gpus):
    driver(gpu1=FULL)
    assert sorted(name for name, _ in seats(gpus=gpus)) == ["gpu0", "gpu2", "gpu3"]
    assert capsys.readouterr().out == "GPU 1 is left out: of its 80.0 GiB of memory only 0.5 are free.\n"


def test_a_full_gpu_that_was_asked_for_is_refused(driver):
    driver(gpu1=FULL)
    with pytest.raises(UsageError, match=r"GPU 1 can't be used, of its 80\.0 GiB of memory only 0\.5 are free"):
        choose_seats(Settings(gpus="0,1"))


def test_where_all_gpus_are_full_none_can_be_used(driver):
    driver(gpu0=FULL, gpu1=FULL, gpu2=FULL, gpu3=FULL)
    with pytest.raises(UsageError, match="no GPU can be used"):
        choose_seats(Settings())


def test_a_gpu_that_is_lost_already_does_not_hide_the_others(driver, capsys):
    driver(gpu2={"lost": True})
    assert [name for name, _ in seats()] == ["gpu0", "gpu1", "gpu3"]
    assert "GPU 2 is left out: it does not answer (GPU is lost)." in capsys.readouterr().out


def test_a_driver_with_an_error_is_not_taken_for_a_machine_without_gpus(driver):
    driver(init=18)
    with pytest.raises(NoWorkerLeft, match=r"does not answer \(Driver/library version mismatch\): see what nvidia-smi"):
        choose_seats(Settings())
    assert choose_seats(Settings(device="cpu"))[0].device == "cpu"


def test_a_driver_that_hangs_is_waited_for_only_so_long(driver, monkeypatch):
    monkeypatch.setattr(gpus, "_PATIENCE", 0.3)
    driver(hang=True)
    with pytest.raises(NoWorkerLeft, match=r"has not answered for 0\.3 s"):
        choose_seats(Settings())
    assert gpus.is_lost("GPU-a") is False


def test_a_gpu_is_lost_when_the_driver_says_so_or_shows_it_no_more(driver):
    driver(gpu2={"lost": True})
    assert [gpus.is_lost(uuid) for uuid in ("GPU-a", "GPU-c", "GPU-z")] == [False, True, True]


def test_of_several_gpus_of_a_worker_one_that_is_lost_is_enough(driver):
    driver(gpu2={"lost": True})
    assert [gpus.is_lost(seat.visible) for seat in choose_seats(Settings(gpus="0,1", gpus_per_worker=2))] == [False]
    assert gpus.is_lost("GPU-a,GPU-c") is True


# ---- whole runs ----


@pytest.fixture
def run_on(driver, tmp_path):
    """run_on("--gpus", …): a run of the do-nothing engine on the GPUs of the driver."""
    empty_pictures(tmp_path / "in", 60)

    def run(*args, fault="gpu", timeout=60):
        return runs.run(tmp_path / "in", "--output", tmp_path / "out", "--model", "null:20", *args, fault=fault,
                        timeout=timeout, gpus=tmp_path / "gpus.json")  # fmt: skip

    return run


def test_a_run_on_two_gpus_with_two_workers_each(run_on, tmp_path):
    done = run_on("--gpus", "1,3", "--workers-per-gpu", 2)
    assert done.returncode == 0, done.stderr
    assert "gpu1, gpu3, gpu1.2, gpu3.2" in done.stdout
    assert len(captions(tmp_path / "out")) == 60


@pytest.mark.parametrize(("args", "code"), [(("--gpus", "9"), 2), (("--num-gpus", 9), 2), (("--gpus", "1"), 2)])
def test_a_wrong_or_full_gpu_is_one_sentence_and_status_2(run_on, driver, args, code):
    driver(gpu1=FULL)
    done = run_on(*args)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)


def test_a_driver_that_does_not_answer_is_one_sentence_and_status_5(run_on, driver):
    driver(init=18)
    done = run_on()
    assert (done.returncode, len(done.stderr.splitlines())) == (5, 1)
    assert "Driver/library version mismatch" in done.stderr


SMALL_MODEL = {"free": 60 * GIB, "takes": 25 * GIB}  # memory for two workers


def test_auto_adds_workers_while_memory_is_free_and_the_rate_grows(run_on, driver, tmp_path):
    empty_pictures(tmp_path / "in", 700)
    driver(gpu0=SMALL_MODEL, gpu1=SMALL_MODEL)
    done = run_on("--gpus", "0,1", "--workers-per-gpu", "auto", "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    assert "gpu0.2, gpu1.2 added" in done.stderr
    assert "gpu0.3" not in done.stderr and "taken off" not in done.stderr
    computed = runs.run_file(tmp_path / "out")["runs"][-1]["totals"]["idle"]
    assert set(computed) == {"gpu0", "gpu1", "gpu0.2", "gpu1.2"}
    assert all(shares["computing"] > 0.1 for shares in computed.values())
    assert len(captions(tmp_path / "out")) == 700


def test_auto_takes_a_worker_off_again_that_made_nothing_faster(run_on, driver, tmp_path):
    ids = empty_pictures(tmp_path / "in", 600)
    driver(gpu0=SMALL_MODEL)
    done = run_on("--gpus", "0", "--workers-per-gpu", "auto", "--batch-size", 4, fault="gpu for one at a time")
    assert done.returncode == 0, done.stderr
    assert "gpu0.2 taken off again" in done.stderr and "gpu0.3" not in done.stderr
    rows = captions(tmp_path / "out")
    assert sorted(rows) == ids and {row["attempts"] for row in rows.values()} == {1}


def test_auto_goes_with_the_dynamic_schedule_alone(run_on):
    done = run_on("--workers-per-gpu", "auto", "--schedule", "lockstep")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--schedule dynamic" in done.stderr


def test_a_driver_that_hangs_at_the_start_is_one_sentence_and_status_5(run_on, driver):
    driver(hang=True)
    done = run_on()
    assert (done.returncode, len(done.stderr.splitlines())) == (5, 1)
    assert "has not answered for 3 s" in done.stderr


def test_a_driver_that_hangs_in_a_run_holds_up_nobody(driver, tmp_path):
    empty_pictures(tmp_path / "in", 100)
    process = runs.start(tmp_path / "in", "--output", tmp_path / "out", "--model", "null:20", "--gpus", "0,1",
                         "--batch-size", 4, **runs.broken("gpu in silence", driver()))  # fmt: skip
    runs.wait_for_rows(tmp_path / "out", 8)
    replace_file(tmp_path / "gpus.json", hang=True)
    os.kill(runs.workers_of(process)[0], signal.SIGKILL)  # is it because its GPU is lost? nobody knows
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert len(captions(tmp_path / "out")) == 100


def replace_file(file, **changes):
    """In one step, as the processes of the run read the file at any time."""
    other = file.with_suffix(".new")
    other.write_text(json.dumps(four_gpus(**changes)))
    other.replace(file)


def test_a_gpu_that_is_lost_in_a_run_is_given_up_and_the_others_do_its_part(driver, tmp_path):
    ids = empty_pictures(tmp_path / "in", 200)
    process = runs.start(tmp_path / "in", "--output", tmp_path / "out", "--model", "null:20", "--batch-size", 4,
                         **runs.broken("gpu", driver()))  # fmt: skip
    runs.wait_for_rows(tmp_path / "out", 40)
    replace_file(tmp_path / "gpus.json", gpu2={"lost": True})
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    said = [line for line in stderr.splitlines() if "gpu2" in line and "given up" in line]
    assert len(said) == 1 and "the GPU is lost, its driver shows it no more (RuntimeError: CUDA error" in said[0]
    rows = captions(tmp_path / "out")
    assert sorted(rows) == ids and {row["attempts"] for row in rows.values()} == {1}


def test_when_the_last_gpu_is_lost_the_run_ends_with_5_and_the_same_command_goes_on(driver, tmp_path):
    ids = empty_pictures(tmp_path / "in", 200)
    command = (tmp_path / "in", "--output", tmp_path / "out", "--model", "null:20", "--batch-size", 4)
    process = runs.start(*command, **runs.broken("gpu", driver()))
    runs.wait_for_rows(tmp_path / "out", 40)
    replace_file(tmp_path / "gpus.json", **{f"gpu{number}": {"lost": True} for number in range(4)})
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 5, stderr
    assert "Traceback" not in stdout + stderr
    assert "no worker can go on" in stderr.splitlines()[-1] and "the GPU is lost" in stderr.splitlines()[-1]
    before = captions(tmp_path / "out")
    assert 40 <= len(before) < 200
    driver()
    again = runs.run(*command, gpus=tmp_path / "gpus.json")
    assert again.returncode == 0, again.stderr
    rows = captions(tmp_path / "out")
    assert sorted(rows) == ids and {id: rows[id] for id in before} == before


def test_a_broken_gpu_takes_no_picture_down_with_it(run_on, driver, tmp_path):
    """It loads, and fails whatever it is given: what it failed on is done by others, and nothing is charged."""
    driver(gpu1={"broken": True})
    done = run_on("--gpus", "0,1", "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    assert "uncorrectable ECC error" in done.stderr
    rows = captions(tmp_path / "out")
    assert len(rows) == 60 and {row["attempts"] for row in rows.values()} == {1}


def test_a_worker_whose_model_does_not_load_is_reported_and_the_others_go_on(run_on, driver, tmp_path):
    driver(gpu3={"full": True})
    done = run_on("--gpus", "0,3")
    assert done.returncode == 0, done.stderr
    [said] = [line for line in done.stderr.splitlines() if "given up" in line]
    assert "gpu3" in said and "CUDA out of memory" in said
    assert len(captions(tmp_path / "out")) == 60


def test_a_model_may_have_several_gpus_to_itself(driver, capsys):
    assert seats(gpus_per_worker=2) == [("gpu0+1", "GPU-a,GPU-b"), ("gpu2+3", "GPU-c,GPU-d")]
    assert seats(gpus_per_worker=3) == [("gpu0+1+2", "GPU-a,GPU-b,GPU-c")]
    assert "GPU 3 is left out: --gpus-per-worker 3 leaves 1 over." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "problem"),
    [({"gpus_per_worker": 5}, "there are only 4"), ({"gpus_per_worker": 2, "workers_per_gpu": 2}, "shares none")],
)
def test_too_many_gpus_for_a_model_or_a_model_shared_on_them_is_wrong_use(driver, asked, problem):
    with pytest.raises(UsageError, match=problem):
        choose_seats(Settings(**asked))
