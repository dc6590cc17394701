"""LoaderPool: a picture that crashes or hangs its decoder costs only itself."""

import itertools
import os
import signal
import textwrap
import time

import pytest
from PIL import Image

from caption import loaderpool
from caption.engine import EngineOptions
from caption.errors import TooLarge
from caption.image import DecodeOptions
from caption.item import Item
from caption.loader import load
from caption.loaderpool import InlineLoader, LoaderPool
from caption.messages import LoaderSetup, LoaderTask, Prepared, Refused

DECODE = DecodeOptions(max_pixels=10**6, max_pixels_decoded=10**6)
BAD_PICTURES = """
    import os, signal, time
    import caption.image
    sound = caption.image.read_image

    def read_image(where, options):
        name = os.path.basename(where)
        if name.startswith("exit"):
            os._exit(3)
        if name.startswith("fault"):
            os.kill(os.getpid(), signal.SIGSEGV)
        while name.startswith("hang"):
            time.sleep(1)
        return sound(where, options)

    caption.image.read_image = read_image
"""


SLOW_PICTURES = """
    import time
    import caption.image
    sound = caption.image.read_image

    def read_image(where, options):
        time.sleep(1)
        return sound(where, options)

    caption.image.read_image = read_image
"""


def options(model="null", prompt=""):
    return EngineOptions(model, "fp32", "cpu", 8, prompt, 8)


@pytest.fixture
def faults(tmp_path, monkeypatch):
    """faults(CODE): what each loader runs before its own first line."""

    def put(code):
        folder = tmp_path / "faults"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(textwrap.dedent(code))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return put


@pytest.fixture
def open_pool():
    pools = []

    def open_(count=1, timeout=30.0, limits=(), **more):
        pools.append(LoaderPool(count, LoaderSetup(options(**more), DECODE), timeout, **dict(limits)))
        return pools[-1]

    yield open_
    for pool in pools:
        pool.close()


def submit(pool, folder, names):
    for position, name in enumerate(names):
        path = folder / name
        if not path.exists():
            Image.new("RGB", (10 + position, 5), "red").save(path, "PNG")
        pool.submit({(1, position): Item(position, name, name, str(path), position)})


def answers(pool, count, timeout=30.0):
    """The next ``count`` answers, by position."""
    got, deadline = [], time.monotonic() + timeout
    while len(got) < count and not pool.failure and time.monotonic() < deadline:
        got += pool.take(0.2)
    assert pool.failure is None
    assert len(got) == count, f"{count - len(got)} answers are missing"
    assert len({answer.ref for answer in got}) == count
    return dict(sorted((answer.ref[1], answer) for answer in got))


def test_each_picture_comes_back_under_its_own_ref(tmp_path, open_pool):
    pool, names = open_pool(2), [f"{number}.png" for number in range(20)]
    submit(pool, tmp_path, names)
    for position, answer in answers(pool, 20).items():
        assert isinstance(answer, Prepared)
        assert (answer.width, answer.height) == (10 + position, 5)
        assert answer.inputs["text"].tobytes().decode().startswith(f"{10 + position}x5 ")
    assert pool.loading == 0
    assert pool.steps == 20


def test_a_bad_picture_is_refused_with_its_class_and_its_neighbours_come(tmp_path, open_pool):
    (tmp_path / "text.png").write_bytes(b"text")
    (tmp_path / "empty.png").touch()
    Image.new("1", (1001, 1000)).save(tmp_path / "large.png")
    pool = open_pool()
    submit(pool, tmp_path, ["good.png", "text.png", "empty.png", "large.png", "fine.png"])
    (tmp_path / "gone.png").symlink_to("nowhere")
    pool.submit({(1, 5): Item(5, "gone", "gone", str(tmp_path / "gone.png"), 5)})
    got = answers(pool, 6)
    assert [getattr(one, "error", None) for one in got.values()] == [
        None, "NotAnImage", "EmptyFile", "TooLarge", None, "Vanished"
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "how"), [("exit.png", "status 3"), ("fault.png", "SIGSEGV")])
def test_a_crash_in_the_decoder_costs_only_that_picture(tmp_path, faults, open_pool, name, how):
    faults(BAD_PICTURES)
    pool = open_pool()
    submit(pool, tmp_path, ["a.png", name, "b.png", "c.png"])
    got = answers(pool, 4)
    assert isinstance(got[1], Refused)
    assert got[1].error == "DecoderCrashed"
    assert how in got[1].message
    assert [position for position, one in got.items() if isinstance(one, Prepared)] == [0, 2, 3]


def test_a_hanging_decoder_is_killed_after_the_timeout(tmp_path, faults, open_pool):
    faults(BAD_PICTURES)
    pool = open_pool(timeout=1.0)
    submit(pool, tmp_path, ["a.png", "hang.png", "b.png"])
    got = answers(pool, 3)
    assert got[1].error == "DecoderHung"
    assert "longer than 1 s" in got[1].message
    assert isinstance(got[0], Prepared)
    assert isinstance(got[2], Prepared)


def test_many_bad_pictures_among_many_on_several_loaders(tmp_path, faults, open_pool):
    faults(BAD_PICTURES)
    names = [f"{number}.png" for number in range(40)]
    bad = {0: "exit", 7: "fault", 8: "fault", 9: "exit", 20: "hang", 39: "exit"}
    for position, kind in bad.items():
        names[position] = f"{kind}{position}.png"
    pool = open_pool(3, timeout=2.0)
    submit(pool, tmp_path, names)
    got = answers(pool, 40, timeout=60)
    assert {position for position, one in got.items() if isinstance(one, Refused)} == set(bad)
    assert got[20].error == "DecoderHung"
    assert all(got[position].width == 10 + position for position in got if position not in bad)


def test_loaders_that_die_before_they_are_ready_are_a_failure_not_a_hang(tmp_path, faults, open_pool):
    faults("""
        import caption.engine

        def load_preparer(options, own_process):
            raise RuntimeError("no processor today")

        caption.engine.load_preparer = load_preparer
    """)
    pool = open_pool(2)
    submit(pool, tmp_path, ["a.png"])
    begin = time.monotonic()
    while not pool.failure and time.monotonic() - begin < 30:
        pool.take(0.2)
    assert "status 1" in pool.failure
    assert "no processor today" in pool.failure
    assert pool.not_loaded is None, "it can be this machine's fault, so the model is not blamed"
    begin = time.monotonic()
    assert pool.take(20) == []
    assert time.monotonic() - begin < 5, "nobody waits for loaders that won't come"


def test_a_model_without_a_processor_is_named_at_once_and_not_tried_again(faults, open_pool, tmp_path):
    faults(f"""
        import caption.engine

        def load_preparer(options, own_process):
            open({str(tmp_path / "starts")!r}, "a").write("x")
            raise caption.engine.NotFound("it has no preprocessor_config.json")

        caption.engine.load_preparer = load_preparer
    """)
    pool = open_pool()
    begin = time.monotonic()
    while not pool.failure and time.monotonic() - begin < 30:
        pool.take(0.2)
    assert pool.failure == "it has no preprocessor_config.json"
    assert pool.not_loaded.error == "NotFound"
    pool.close()
    assert (tmp_path / "starts").read_text() == "x"


def test_two_bad_starts_are_forgiven(tmp_path, faults, open_pool):
    """As when memory is short for a moment."""
    faults(f"""
        import os

        with open({str(tmp_path / "starts")!r}, "a+") as file:
            file.write("x")
            file.flush()
            if file.tell() <= 2:
                os._exit(1)
    """)
    pool = open_pool()
    submit(pool, tmp_path, ["a.png"])
    assert isinstance(answers(pool, 1)[0], Prepared)


def test_a_loader_that_is_killed_while_it_has_nothing_to_do_is_replaced(tmp_path, open_pool):
    pool = open_pool()
    submit(pool, tmp_path, ["a.png"])
    answers(pool, 1)
    os.kill(pool._loaders[0].child.pid, signal.SIGKILL)
    time.sleep(0.1)
    submit(pool, tmp_path, ["b.png", "c.png"])
    assert all(isinstance(one, Prepared) for one in answers(pool, 2).values())


def test_a_loader_that_hangs_before_it_is_ready_is_replaced(tmp_path, faults, open_pool, monkeypatch):
    monkeypatch.setattr(loaderpool, "_START_TIMEOUT", 1.0)
    faults(
        f"""
        import os, time
        try:
            os.mkdir({str(tmp_path / "once")!r})
        except FileExistsError:
            pass
        else:
            time.sleep(100)
        """
    )
    pool = open_pool()
    submit(pool, tmp_path, ["a.png"])
    assert isinstance(answers(pool, 1)[0], Prepared)


def test_loaders_that_all_hang_before_they_are_ready_are_a_failure(tmp_path, faults, open_pool, monkeypatch):
    monkeypatch.setattr(loaderpool, "_START_TIMEOUT", 0.3)
    faults("import time; time.sleep(100)")
    pool = open_pool()
    submit(pool, tmp_path, ["a.png"])
    deadline = time.monotonic() + 30
    while not pool.failure:
        assert time.monotonic() < deadline
        pool.take(0.1)
    assert pool.failure == "the loader was not ready after 0.3 s"


def test_a_picture_is_not_charged_for_a_loader_that_somebody_stopped(tmp_path, faults, open_pool):
    faults(SLOW_PICTURES)
    pool = open_pool(timeout=2.0)
    submit(pool, tmp_path, ["a.png"])
    assert isinstance(answers(pool, 1)[0], Prepared)
    submit(pool, tmp_path, ["b.png", "c.png"])
    time.sleep(0.3)
    os.kill(pool._loaders[0].child.pid, signal.SIGSTOP)
    assert [type(one) for one in answers(pool, 2).values()] == [Prepared, Prepared]


def test_messages_larger_than_a_socket_takes_arrive_whole(tmp_path, open_pool):
    """A prompt from a file, and fields of a row that travel with the item."""
    pool = open_pool(prompt="x" * 3_000_000)
    Image.new("RGB", (10, 5)).save(tmp_path / "a.png")
    for position in range(4):
        item = Item(position, "a", "a", str(tmp_path / "a.png"), position, extra={"page": "y" * 1_000_000})
        pool.submit({(1, position): item})
    assert all(isinstance(one, Prepared) for one in answers(pool, 4).values())


def test_take_waits_only_as_long_as_it_may_and_not_when_something_is_there(tmp_path, open_pool):
    pool = open_pool()
    begin = time.monotonic()
    assert pool.take(0) == []
    assert pool.take(0.1) == []
    assert time.monotonic() - begin < 5
    submit(pool, tmp_path, ["a.png"])
    assert pool.loading == 1
    begin = time.monotonic()
    assert len(pool.take(60)) == 1
    assert time.monotonic() - begin < 30


def test_close_ends_all_processes_even_in_the_middle_of_work(tmp_path, faults, open_pool):
    faults(BAD_PICTURES)
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc") else None
    pool = open_pool(2)
    submit(pool, tmp_path, ["hang1.png", "hang2.png", "a.png"])
    children = [loader.child for loader in pool._loaders]
    begin = time.monotonic()
    pool.close()
    assert time.monotonic() - begin < 10
    assert not any(child.running() for child in children)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before
    pool.close()  # once more does no harm


# ---- shared memory ----

LARGE = """
    import numpy as np
    import caption.engine.null

    def prepare(self, image, prompt=None, max_pixels=None, key=""):
        return {"large": np.full(1_000_000, image.width, np.uint8)}

    caption.engine.null.NullPreparer.prepare = prepare
"""


def test_large_arrays_arrive_equal_from_loaders_that_are_killed_on_the_way(tmp_path, faults, open_pool):
    faults(LARGE)
    pool = open_pool(2)
    submit(pool, tmp_path, [f"{number}.png" for number in range(60)])
    got, begin = {}, time.monotonic()
    while len(got) < 60 and time.monotonic() - begin < 60:
        got.update((one.ref[1], one) for one in pool.take(0.2))
        if len(got) in range(10, 30, 5):
            os.kill(pool._loaders[0].child.pid, signal.SIGKILL)
    assert len(got) == 60
    for position, one in got.items():
        if isinstance(one, Prepared):
            assert (one.inputs["large"] == 10 + position).all()
        else:
            assert one.error == "DecoderCrashed"


def test_loading_pauses_while_much_is_held_and_goes_on_when_it_is_let_go(tmp_path, faults, open_pool):
    faults(LARGE)
    pool = open_pool(limits={"most_held": 3_000_000})
    submit(pool, tmp_path, [f"{number}.png" for number in range(30)])
    got, begin = [], time.monotonic()
    while not pool.full and time.monotonic() - begin < 30:
        got += pool.take()
        time.sleep(0.01)
    time.sleep(0.3)
    got += pool.take()
    assert pool.full
    assert 3 <= len(got) <= 5, "what was allowed, and what was in work"
    held = len(got)
    while held < 30 and time.monotonic() - begin < 60:
        got.clear()
        got += pool.take()
        held += len(got)
        time.sleep(0.01)
    assert held == 30
    assert os.fstat(pool._memories[0].descriptor).st_size == 64 << 20


def test_who_waits_gets_more_than_may_be_held(tmp_path, faults, open_pool):
    """A group that must run by itself can be larger than all that may be held."""
    faults(LARGE)
    pool = open_pool(limits={"most_held": 1_000_000})
    submit(pool, tmp_path, [f"{number}.png" for number in range(12)])
    assert len(answers(pool, 12)) == 12


def test_while_memory_is_locked_for_all_loaders_the_engine_gets_most_of_the_time(tmp_path, faults, open_pool):
    faults(LARGE)
    locked = []

    def lock(memory):
        began = time.monotonic()
        time.sleep(0.1)
        locked.append((began, time.monotonic()))
        return True

    pool, begin = open_pool(3, limits={"lock_pages": lock}), time.monotonic()
    while len(locked) < 3 and time.monotonic() - begin < 60:
        submit(pool, tmp_path, [f"{number}.png" for number in range(9)])
        answers(pool, 9)
    assert len(locked) == 3, "one piece of memory for each loader"
    assert all(later - ended >= 4 * (ended - began) for (began, ended), (later, _) in itertools.pairwise(locked))


# ---- one image, in the loader itself ----


class Preparer:
    """Fails as a processor may."""

    def __init__(self, error):
        self.error = error

    def prepare(self, image, prompt, max_pixels):
        raise self.error


@pytest.mark.parametrize(
    ("error", "name"),
    [(ValueError("aspect ratio"), "EngineFailed"), (MemoryError(), "OutOfMemory"), (TooLarge("it is"), "TooLarge")],
)
def test_whatever_the_preparing_raises_is_an_answer(tmp_path, error, name):
    Image.new("RGB", (10, 5)).save(tmp_path / "a.png")
    item = Item(0, "a", "a", str(tmp_path / "a.png"), 0)
    answer = load(LoaderTask((1, 0), item), Preparer(error), DECODE)
    assert (answer.ref, answer.error) == ((1, 0), name)
    assert str(error) in answer.message


def test_the_items_own_prompt_and_pixels_reach_the_preparer(tmp_path):
    Image.new("RGB", (10, 5)).save(tmp_path / "a.png")
    seen = []

    class Recording:
        def prepare(self, image, prompt, max_pixels):
            seen.append((image.size, prompt, max_pixels))
            return {}

    item = Item(0, "a", "a", str(tmp_path / "a.png"), 0, prompt="what?", max_pixels=77)
    answer = load(LoaderTask((1, 0), item), Recording(), DECODE)
    assert answer == Prepared((1, 0), {}, 10, 5)
    assert seen == [((10, 5), "what?", 77)]


def test_inline_loader_answers_at_once():
    from caption.engine import load_preparer

    loader = InlineLoader(load_preparer(options()))
    loader.submit({(1, 0): Item(0, "a/b.png", "a/b.png", "/nowhere", 0)})
    (answer,) = loader.take(60)
    assert answer.inputs["text"].tobytes() == b"a/b.png"
    assert loader.take(60) == []
    assert (loader.loading, loader.steps, loader.failure, loader.not_loaded) == (0, 1, None, None)
