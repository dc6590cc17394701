"""CaptionPool with the engine that does nothing: order, bounds, faults, and that no process is left behind."""

import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from caption import CaptionPool
from caption import pool as pool_module
from caption.errors import ModelNotFound, NoWorkerLeft, UsageError
from caption.settings import OPTIONS
from tests.runs import FAULTS, ROOT, environment, own_workers, wait_until_alone


def names(count, prefix="image"):
    return [f"{prefix}{number}.jpg" for number in range(count)]


@pytest.fixture
def pool():
    with CaptionPool(model="null:2", device="cpu", workers=2) as pool:
        yield pool
    assert own_workers() == []


def test_results_come_in_the_order_of_the_images_each_with_its_own_caption(pool):
    results = list(pool.caption(names(300)))
    assert [result.index for result in results] == list(range(300))
    assert [result.image for result in results] == [result.id for result in results] == names(300)
    assert [result.caption for result in results] == names(300)
    assert all(result.success and result.error is None and result.seconds > 0 for result in results)
    assert [result.seed for result in results] == list(range(300))


def test_results_come_as_they_end_if_the_order_does_not_matter(pool):
    results = list(pool.caption(names(300), ordered=False))
    assert sorted(result.index for result in results) == list(range(300))
    assert all(result.caption == f"image{result.index}.jpg" for result in results)


def test_workers_stay_for_the_next_call(pool):
    list(pool.caption(names(5)))
    before = sorted(worker.pid for worker in own_workers())
    assert [result.caption for result in pool.caption(names(5, "other"))] == names(5, "other")
    assert sorted(worker.pid for worker in own_workers()) == before


def test_a_generator_without_an_end_is_read_a_bounded_way_ahead(pool):
    read = itertools.count()
    images = (f"{next(read)}.jpg" for _ in itertools.count())
    for result in itertools.islice(pool.caption(images), 500):
        assert result.caption == f"{result.index}.jpg"
    assert 500 <= next(read) <= 500 + 64 + 2


def test_a_slow_source_of_images_does_not_hold_up_what_is_done(pool):
    list(pool.caption(names(1)))  # the model is loaded
    given = []

    def slowly():
        for number in range(5):
            given.append(number)
            yield f"{number}.jpg"
            time.sleep(0.1)

    ahead = [len(given) - result.index for result in pool.caption(slowly())]
    assert max(ahead) <= 3  # the one that came, and two that were read meanwhile


def test_no_images_are_no_results_and_need_no_loaded_model(pool):
    assert list(pool.caption([])) == []


def test_leaving_the_loop_early_spoils_nothing_for_the_next_call(pool):
    for result in pool.caption(names(1000, "first")):
        if result.index == 3:
            break
    assert [result.caption for result in pool.caption(names(50, "second"))] == names(50, "second")


def test_an_exception_of_the_images_reaches_the_caller_and_the_pool_goes_on(pool):
    def broken():
        yield from names(10)
        raise OSError("the list of images can't be read")

    with pytest.raises(OSError, match="the list of images"):
        list(pool.caption(broken()))
    assert len(list(pool.caption(names(10)))) == 10


def test_two_calls_at_a_time_get_each_their_own(pool):
    one, other = pool.caption(names(200, "one")), pool.caption(names(200, "other"))
    for first, second in zip(one, other):
        assert (first.caption, second.caption) == (f"one{first.index}.jpg", f"other{first.index}.jpg")
    found = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: list(pool.caption(names(100, name)))}))
        for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {name: [one.caption for one in found[name]] for name in "abcd"} == {n: names(100, n) for n in "abcd"}


def test_a_row_has_its_own_id_prompt_seed_and_fields(pool):
    rows = [{"image": "a.jpg", "id": 7, "seed": 40, "kind": "cat"}, {"image": "b.jpg", "prompt": "Own?", "kind": ""}]
    one, other = pool.caption(rows, prompt="Which {kind}?", seed=100)
    assert (one.id, one.caption, one.seed, one.extra) == ("7", "7", 40, {"kind": "cat"})
    assert (other.id, other.success, other.seed, other.extra) == ("b.jpg", True, 101, {"kind": ""})
    [lacking] = pool.caption([{"image": "b.jpg", "kind": ""}], prompt="Which {kind}?")
    assert (lacking.success, lacking.error, lacking.caption) == (False, "MissingField", None)


def test_what_is_no_image_is_a_result_of_its_own(pool):
    results = list(pool.caption([None, "a.jpg", 7, {}, b"", "http://a/b.jpg", {"image": "c.jpg", "seed": "x"}]))
    errors = ["NotAnImage", None, "NotAnImage", "BadRow", "EmptyFile", "NotLocal", "BadRow"]
    assert [result.error for result in results] == errors
    assert [result.success for result in results] == [error is None for error in errors]
    assert all(result.message for result in results if result.error)


@pytest.mark.parametrize("one", ["a.jpg", ROOT / "a.jpg", b"bytes", {"image": "a.jpg"}, 7, None])
def test_one_image_in_place_of_many_is_refused_at_once(pool, one):
    with pytest.raises(TypeError, match="images"):
        pool.caption(one)


@pytest.fixture
def heard():
    """Messages that reach the handlers of a program that uses a pool (caplog also hears what reaches none)."""
    messages, handler = [], logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    yield messages
    logging.getLogger().removeHandler(handler)


def test_a_killed_worker_is_replaced_and_its_images_are_done_again(pool, heard):
    captions = []
    for result in pool.caption(names(400)):
        captions.append(result.caption)
        if result.index in (50, 200):
            os.kill(own_workers()[0].pid, signal.SIGKILL)
    assert captions == names(400)
    assert "SIGKILL" in "\n".join(heard) and len(own_workers()) == 2


@pytest.mark.parametrize(("fault", "error"), [("kill", "WorkerDied"), ("error", "EngineFailed")])
def test_a_poison_image_fails_alone_and_its_neighbours_are_captioned(monkeypatch, fault, error):
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("PYTHONPATH", str(FAULTS))
    images = names(30)
    images[11] = "poison.jpg"
    with CaptionPool(model="null", device="cpu", max_retries=1) as pool:
        results = list(pool.caption(images))
    assert [result.caption for result in results] == [None if image == "poison.jpg" else image for image in images]
    assert (results[11].success, results[11].error, results[11].attempts) == (False, error, 2)
    assert results[11].message and len(results[11].retries) == 1


def test_when_no_worker_can_load_the_loop_raises_why_and_so_does_the_next(monkeypatch):
    monkeypatch.setenv("FAULT", "load")
    monkeypatch.setenv("PYTHONPATH", str(FAULTS))
    with CaptionPool(model="null", device="cpu") as pool:
        for _ in range(2):
            with pytest.raises(NoWorkerLeft, match="out of memory while loading"):
                list(pool.caption(names(3)))


def test_wrong_options_are_refused_before_anything_starts():
    with pytest.raises(TypeError, match="model is the nearest"):
        CaptionPool(modle="null")
    for name in ("output", "log_file", "metrics_port"):  # which a pool would not look at
        with pytest.raises(TypeError, match=name):
            CaptionPool(model="null", **{name: OPTIONS[name].default})
    with pytest.raises(UsageError, match="workers"):
        CaptionPool(model="null", workers=0)
    with pytest.raises(UsageError, match="workers_per_gpu"):
        CaptionPool(model="null", workers_per_gpu="auto")
    with pytest.raises(UsageError, match="exclude each other"):
        CaptionPool(model="null", num_beams=2, temperature=1.0)
    with pytest.raises(ModelNotFound):
        CaptionPool(model="./nowhere")
    with pytest.raises(UsageError, match="no GPU"):
        CaptionPool(model="null", gpus=[97])
    assert own_workers() == []


class TestNothingIsLeftBehind:
    def test_after_an_exception_in_the_loop(self):
        with pytest.raises(ZeroDivisionError), CaptionPool(model="null:5", device="cpu", workers=2) as pool:
            for result in pool.caption(names(1000)):
                1 / (result.index - 20)
        assert own_workers() == []

    def test_by_a_pool_that_nobody_refers_to(self):
        results = CaptionPool(model="null", device="cpu").caption(names(100))
        assert len(list(results)) == 100  # the call keeps it
        del results
        gc.collect()
        assert own_workers() == []

    def test_by_a_pool_that_is_closed_while_its_model_loads(self):
        CaptionPool(model="null", device="cpu", workers=3).close()
        assert own_workers() == []

    def test_a_closed_pool_says_so_and_does_not_wait(self):
        pool = CaptionPool(model="null:5", device="cpu")
        results = pool.caption(names(1000))
        next(results)
        pool.close()
        pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            list(results)
        with pytest.raises(RuntimeError, match="closed"):
            list(pool.caption(names(1)))

    def test_a_pool_closed_by_another_thread_ends_a_wait(self):
        pool = CaptionPool(model="null:100000", device="cpu")
        results = pool.caption(names(10))
        threading.Timer(1, pool.close).start()
        with pytest.raises(RuntimeError, match="closed"):
            next(results)

    def test_a_process_that_was_forked_off_leaves_the_pool_alone(self, pool):
        list(pool.caption(names(1)))
        child = os.fork()
        if not child:
            try:
                list(pool.caption(names(1)))
            except RuntimeError:
                pool.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert len(list(pool.caption(names(20)))) == 20


SCRIPT = """
import signal, sys
before = signal.getsignal(signal.SIGINT)
import caption
light = not {"torch", "transformers", "numpy", "PIL"} & set(sys.modules)
from PIL import Image
limit = Image.MAX_IMAGE_PIXELS
from caption import CaptionPool
pool = CaptionPool(model="null:20", device="cpu", workers=2)
assert light and signal.getsignal(signal.SIGINT) is before and Image.MAX_IMAGE_PIXELS == limit
assert not {"torch", "transformers"} & set(sys.modules)
for result in pool.caption(f"{number}.jpg" for number in range(COUNT)):
    print(result.caption, flush=True)
"""


class TestScripts:
    """Programs without ``if __name__ == "__main__"``, as people write them."""

    def start(self, count):
        code = SCRIPT.replace("COUNT", str(count))
        return subprocess.Popen([sys.executable, "-c", code], env=environment(), text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, start_new_session=True, cwd=ROOT)  # fmt: skip

    def test_one_that_does_not_close_its_pool_ends_with_it(self):
        process = self.start(30)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert stdout.split() == [f"{number}.jpg" for number in range(30)] and stderr == ""
        wait_until_alone(process, 5)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_one_that_is_stopped_takes_its_workers_along(self, number):
        process = self.start(100_000)
        for _ in range(20):
            assert process.stdout.readline()
        os.kill(process.pid, number)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode != 0
        assert ("KeyboardInterrupt" in stderr) == (number == signal.SIGINT)
        wait_until_alone(process, 10)

    def test_ctrl_c_in_a_terminal_reaches_the_loop_and_no_worker(self):
        process = self.start(100_000)
        for _ in range(20):
            assert process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
        assert stderr.strip().endswith("KeyboardInterrupt") and "worker is gone" not in stderr
        wait_until_alone(process, 10)


def test_options_that_are_kept_from_pools_are_options_of_runs():
    assert OPTIONS.keys() > pool_module._OF_RUNS
    for name in pool_module._OF_RUNS:
        with pytest.raises(TypeError, match=name):
            CaptionPool(**{name: OPTIONS[name].default})


def test_a_worker_that_hangs_is_replaced_and_its_images_are_done_again(caplog):
    with CaptionPool(model="null:20", device="cpu", stall_timeout=2) as pool:
        captions = []
        for result in pool.caption(names(60)):
            captions.append(result.caption)
            if result.index == 10:
                os.kill(own_workers()[0].pid, signal.SIGSTOP)
    assert captions == names(60)
    assert "stopped" in caplog.text
