"""Worker: whose fault it is when the engine raises, and what is sent when. The worker runs in a thread, on a real
channel, with the null engine's loader and an engine that fails where the test wants it."""

import os
import threading
import time

import pytest

import caption.engine
import caption.pulse
from caption.engine import Answer, DoesNotFit, NotFound, Refusal
from caption.item import Item
from caption.messages import (
    Adapted,
    Batch,
    Begin,
    Broken,
    Captioned,
    Drain,
    Failed,
    Hello,
    Left,
    Loaded,
    NotLoaded,
    Prepared,
    Ready,
    Refused,
    Started,
    Stats,
)
from caption.pulse import Pulse
from caption.worker import Worker
from tests.bench import Bench, FakeEngine, HeldLoader

BEAT = Pulse._beat
LEFT_WOULD = "say that it ended as told: then what it held would never be handed out again"


@pytest.fixture
def bench(monkeypatch):
    """What ends a worker process must not end this one: its listener only notes it."""
    bench = Bench()
    bench.exits = []
    monkeypatch.setattr(os, "_exit", bench.exits.append)
    monkeypatch.setattr(Pulse, "_beat", lambda self: None)  # one test asks for it
    yield bench
    bench.channel.close()
    for thread in threading.enumerate():
        if thread.name == "mail":
            thread.join(10)


@pytest.fixture
def with_engine(bench, monkeypatch):
    """with_engine(...): a worker started with a FakeEngine of these arguments."""

    def start(begin=True, **arguments):
        engine = FakeEngine(bench.log, **arguments)
        monkeypatch.setattr(caption.engine, "load_engine", lambda options: engine)
        bench.start(begin=begin)
        return engine

    return start


@pytest.fixture
def loader(monkeypatch):
    loader = HeldLoader()
    monkeypatch.setattr(Worker, "_start_loaders", lambda self: loader)
    return loader


def prepared(ref):
    return Prepared(ref, {}, 640, 480)


# ---- a life without trouble ----


def test_the_way_from_hello_to_left(bench, with_engine):
    with_engine()
    refs = bench.give(3)
    bench.finish()
    kinds = [type(entry).__name__ for entry in bench.log if type(entry) is not tuple]
    assert kinds == ["Hello", "Loaded", "Stats", "Ready", "Started", "Captioned", "Left"]
    assert bench.sent(Loaded)[0].facts == {"engine": "fake"}
    results = [(one.ref, one.caption, one.tokens, one.flags) for one in bench.sent(Captioned)[0].results]
    assert results == [(ref, f"picture {ref}.", 2, ()) for ref in refs]


def test_pictures_are_prepared_before_it_may_begin_and_enter_the_engine_afterwards(bench, with_engine, loader):
    with_engine(begin=False)
    refs = bench.give(3)
    bench.wait(lambda: bench.sent(Ready) and loader.loading == 3)
    assert bench.log.index(("warm up", ())) > bench.log.index(bench.sent(Loaded)[0])
    loader.answers = [prepared(ref) for ref in refs]
    bench.wait(lambda: loader.loading == 0)
    time.sleep(0.1)
    assert bench.groups() == []
    bench.channel.send(Begin())
    bench.wait_for_results(3)
    bench.finish()
    assert bench.captioned() == refs


def test_a_drain_before_it_may_begin_leaves_all_that_it_holds(bench, with_engine, loader):
    with_engine(begin=False)
    refs = bench.give(3)
    bench.wait(lambda: loader.loading == 3)
    loader.answers = [prepared(ref) for ref in refs]
    bench.channel.send(Drain())
    bench.end()
    assert bench.groups() == [] and len(bench.sent(Left)) == 1


def test_a_device_that_fails_while_it_warms_up_is_the_last_word(bench, with_engine):
    with_engine(cold=RuntimeError("CUDA error: unspecified launch failure"))
    bench.end()
    assert [one.message for one in bench.sent(Broken)] == ["RuntimeError: CUDA error: unspecified launch failure"]
    assert bench.sent(Ready) == bench.sent(Left) == []


def test_what_an_item_asks_for_itself_reaches_the_engine(bench, with_engine, monkeypatch):
    engine, seen = with_engine(), []
    monkeypatch.setattr(engine, "admit", lambda requests, admit=engine.admit: (seen.extend(requests), admit(requests)))
    bench.channel.send(Batch(1, (Item(0, "x", "x", "/nowhere", 7, max_new_tokens=5, penalty=1.21),), False))
    bench.finish()
    assert [(one.seed, one.max_new_tokens, one.penalty) for one in seen] == [(7, 5, 1.21)]


def test_started_is_sent_before_the_engine_sees_the_items(bench, with_engine):
    with_engine(size=4, steps=2)
    bench.give(10)
    bench.wait_for_results(10)
    announced = set()
    for entry in bench.log:
        if isinstance(entry, Started):
            announced.update(entry.refs)
        elif type(entry) is tuple:
            assert announced.issuperset(entry[1])
    assert len(announced) == 10


def test_free_places_are_filled_while_others_are_still_inside(bench, with_engine):
    engine = with_engine(size=4, steps=3)
    engine.go_on.clear()
    first = bench.give(2)
    bench.wait(lambda: bench.engine_saw("step"))
    second = bench.give(3)
    bench.wait(lambda: not bench.worker._mail.empty())
    engine.go_on.set()
    bench.wait_for_results(5)
    assert {*first, *second[:2]} in map(set, bench.engine_saw("step"))
    assert bench.engine_saw("admit") == [tuple(first), tuple(second[:2]), tuple(second[2:])]


def test_a_group_waits_for_its_loaders_until_it_is_full(bench, with_engine, loader):
    with_engine(size=4)
    refs = bench.give(5)
    bench.wait(lambda: loader.loading == 5)
    loader.answers = [prepared(ref) for ref in refs[:3]]
    time.sleep(0.1)
    assert bench.groups() == [], "the fourth is on its way"
    loader.answers = [prepared(refs[3])]
    bench.wait_for_results(4)
    loader.answers = [prepared(refs[4])]
    bench.wait_for_results(5)
    assert bench.groups() == [tuple(refs[:4]), (refs[4],)]


def test_what_the_guard_doubts_is_a_flag(bench, with_engine, monkeypatch):
    engine = with_engine()
    ref = (1, 0)
    monkeypatch.setattr(engine, "step", lambda: [Answer(ref, "a cat on", "length", 16, ("non-finite",))])
    bench.give(1)
    bench.wait_for_results(1)
    (result,) = bench.sent(Captioned)[0].results
    assert (result.finish_reason, result.flags) == ("length", ("cut-off", "non-finite"))


def test_a_refused_picture_is_a_failure_and_its_neighbours_are_captioned(bench, with_engine, loader):
    with_engine()
    refs = bench.give(3)
    loader.answers = [prepared(refs[0]), Refused(refs[1], "NotAnImage", "no picture"), prepared(refs[2])]
    bench.wait_for_results(3)
    assert bench.failed() == {refs[1]: "NotAnImage"}
    assert bench.captioned() == [refs[0], refs[2]]
    assert refs[1] not in {ref for group in bench.groups() for ref in group}, "it was never a suspect"
    (result, _) = bench.sent(Captioned)[0].results
    assert (result.width, result.height) == (640, 480)


def test_the_real_null_engine_captions_each_item_with_its_own_id(bench):
    bench.start(model="null")
    bench.give(20, name="photo")
    bench.finish()
    captions = {one.ref[1]: one.caption for message in bench.sent(Captioned) for one in message.results}
    assert captions == {position: f"photo{position}" for position in range(20)}


# ---- one of a group is bad ----


@pytest.mark.parametrize("bad", [0, 3, 7])
def test_one_bad_item_in_a_group_of_eight_fails_alone(bench, with_engine, bad):
    with_engine(fault=lambda keys: RuntimeError("bad shape") if (1, bad) in keys else None)
    refs = bench.give(8)
    bench.wait_for_results(8)
    assert bench.failed() == {(1, bad): "EngineFailed"}
    assert sorted(bench.captioned()) == [ref for ref in refs if ref != (1, bad)]
    assert [len(group) for group in bench.groups() if (1, bad) in group] == [8, 4, 2, 1]
    assert bench.sent(Failed)[0].failures[0].message == "RuntimeError: bad shape"
    assert bench.sent(Broken) == []


def test_two_bad_items_in_a_group_are_both_found(bench, with_engine):
    with_engine(fault=lambda keys: ValueError("bad") if keys & {(1, 1), (1, 6)} else None)
    bench.give(8)
    bench.wait_for_results(8)
    assert bench.failed() == {(1, 1): "EngineFailed", (1, 6): "EngineFailed"}
    assert len(bench.captioned()) == 6


def test_an_error_does_not_make_later_groups_smaller(bench, with_engine):
    with_engine(fault=lambda keys: RuntimeError("bad shape") if (1, 2) in keys else None)
    bench.give(8)
    bench.wait_for_results(8)
    bench.give(8)
    bench.wait_for_results(16)
    assert len(bench.groups()[-1]) == 8


def test_an_error_with_several_groups_inside_costs_only_the_bad_one(bench, with_engine):
    """With slots, what raises can be any of those inside, whenever they came."""
    engine = with_engine(size=6, steps=3, fault=lambda keys: RuntimeError("bad") if (2, 0) in keys else None)
    engine.go_on.clear()
    bench.give(4)
    bench.wait(lambda: bench.engine_saw("step"))
    bench.give(2)
    bench.wait(lambda: not bench.worker._mail.empty())
    engine.go_on.set()
    bench.wait_for_results(6)
    assert bench.failed() == {(2, 0): "EngineFailed"}
    assert len(bench.captioned()) == 5


# ---- memory ----


def test_out_of_memory_halves_the_group_and_is_remembered(bench, with_engine):
    with_engine(fault=lambda keys: MemoryError() if len(keys) > 4 else None)
    bench.give(8)
    bench.wait_for_results(8)
    bench.give(8)
    bench.wait_for_results(16)
    assert bench.failed() == {}
    assert [len(group) for group in bench.groups()] == [8, 4, 4, 4, 4]


def test_a_picture_too_large_even_alone_does_not_slow_down_the_others(bench, with_engine):
    with_engine(fault=lambda keys: RuntimeError("CUDA out of memory.") if (2, 5) in keys else None)
    bench.give(8)
    bench.wait_for_results(8)
    bench.give(8)
    bench.wait_for_results(16)
    assert bench.failed() == {(2, 5): "OutOfMemory"}
    bench.give(8)
    bench.wait_for_results(24)
    assert len(bench.groups()[-1]) == 8


def test_a_retry_that_is_too_large_alone_does_not_slow_down_the_others(bench, with_engine):
    with_engine(fault=lambda keys: MemoryError() if (1, 0) in keys else None)
    bench.give(1, alone=True)
    bench.wait_for_results(1)
    bench.give(8)
    bench.wait_for_results(9)
    assert len(bench.groups()[-1]) == 8


# ---- alone ----


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_an_alone_batch_is_never_joined_and_joins_nobody(bench, with_engine, order):
    engine = with_engine(size=8, steps=3)
    engine.go_on.clear()
    bench.give(2, alone=order[0])
    bench.wait(lambda: bench.engine_saw("step"))
    bench.give(3, alone=order[1])
    bench.wait(lambda: not bench.worker._mail.empty())
    engine.go_on.set()
    bench.wait_for_results(5)
    for inside in bench.engine_saw("step"):
        assert len({lease for lease, _ in inside}) == 1, "two hand-outs side by side"


def test_an_alone_batch_goes_in_as_one_group_after_its_last_picture_is_there(bench, with_engine, loader):
    with_engine()
    refs = bench.give(3, alone=True)
    bench.wait(lambda: loader.loading == 3)
    loader.answers = [prepared(refs[2])]
    time.sleep(0.1)
    assert bench.groups() == []
    loader.answers = [Refused(refs[0], "Truncated", "broken"), prepared(refs[1])]
    bench.wait_for_results(3)
    assert bench.groups() == [(refs[2], refs[1])]


def test_an_alone_batch_of_which_all_is_refused_holds_up_nothing(bench, with_engine, loader):
    with_engine()
    refs = bench.give(1, alone=True)
    others = bench.give(2)
    bench.wait(lambda: loader.loading == 3)
    loader.answers = [Refused(refs[0], "Truncated", "broken"), *map(prepared, others)]
    bench.wait_for_results(3)
    assert bench.captioned() == others


def test_an_alone_batch_larger_than_the_engine_runs_in_parts_by_itself(bench, with_engine):
    with_engine(size=4)
    bench.give(10, alone=True)
    bench.give(2)
    bench.wait_for_results(12)
    assert [len(group) for group in bench.groups()] == [4, 4, 2, 2]


# ---- ends ----


def test_a_device_error_is_the_last_word(bench, with_engine):
    with_engine(fault=lambda keys: RuntimeError("CUDA error: an illegal memory access was encountered"))
    refs = bench.give(8)
    bench.end()
    assert "illegal memory access" in bench.sent(Broken)[0].message
    assert bench.groups() == [tuple(refs)]
    assert bench.failed() == {}
    assert len(bench.engine_saw("step")) == 1
    assert bench.sent(Left) == [], LEFT_WOULD


def test_loaders_that_can_not_start_are_the_last_word(bench, with_engine, loader):
    loader.failure = "the loader ended with status 1"
    with_engine()
    bench.end()
    assert bench.sent(Broken) == [Broken("the loader ended with status 1")]
    assert bench.sent(Left) == [], LEFT_WOULD


def test_a_model_without_a_processor_is_not_loaded(bench, with_engine, loader):
    loader.failure = "it has no processor"
    loader.not_loaded = NotLoaded("NotFound", "it has no processor")
    with_engine()
    bench.end()
    assert bench.sent(NotLoaded) == [NotLoaded("NotFound", "it has no processor")]
    assert bench.sent(Left) == [], LEFT_WOULD


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (NotFound("there is no config.json"), "NotFound"),
        (MemoryError("no room"), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),
        (KeyError("hidden_size"), "DoesNotLoad"),
    ],
)
def test_a_model_that_does_not_load_is_named(bench, monkeypatch, error, name):
    def load_engine(options):
        raise error

    monkeypatch.setattr(caption.engine, "load_engine", load_engine)
    bench.start()
    bench.end()
    (message,) = bench.sent(NotLoaded)
    assert message.error == name
    assert str(error) in message.message
    assert bench.sent(Loaded) == []
    assert bench.sent(Left) == [], LEFT_WOULD


def test_finish_lets_all_that_was_handed_out_end(bench, with_engine):
    with_engine(size=4, steps=2)
    bench.give(9)
    bench.give(3, alone=True)
    bench.finish()
    assert len(bench.captioned()) == 12
    assert len(bench.sent(Left)) == 1


def test_drain_ends_what_is_inside_and_leaves_the_rest(bench, with_engine):
    engine = with_engine(size=4, steps=3)
    engine.go_on.clear()
    refs = bench.give(10)
    bench.wait(lambda: bench.engine_saw("step"))
    bench.channel.send(Drain())
    bench.wait(lambda: not bench.worker._mail.empty())
    engine.go_on.set()
    bench.end()
    assert bench.captioned() == refs[:4]
    assert bench.groups() == [tuple(refs[:4])]
    assert len(bench.sent(Left)) == 1


def test_drain_does_not_search_for_a_bad_item(bench, with_engine):
    engine = with_engine(fault=lambda keys: RuntimeError("bad"))
    engine.go_on.clear()
    bench.give(8)
    bench.wait(lambda: bench.engine_saw("step"))
    bench.channel.send(Drain())
    bench.wait(lambda: not bench.worker._mail.empty())
    engine.go_on.set()
    bench.end()
    assert bench.failed() == {}, "nobody was tried alone"
    assert len(bench.engine_saw("step")) == 1
    assert len(bench.sent(Left)) == 1


def test_a_worker_whose_coordinator_is_gone_ends(bench, with_engine):
    with_engine()
    bench.wait(lambda: bench.sent(Loaded))
    bench.channel.close()
    bench.wait(lambda: bench.exits == [1])


def test_a_coordinator_that_goes_at_the_worst_moment_is_not_taken_for_a_bad_item(bench, with_engine, monkeypatch):
    send = bench.theirs.send

    def gone(message):
        if isinstance(message, Started):
            raise EOFError("the parent is gone")
        send(message)

    monkeypatch.setattr(bench.theirs, "send", gone)
    with_engine()
    bench.give(2)
    bench.thread.join(20)
    assert type(bench.raised) is EOFError


def test_what_the_device_waits_for_the_host_in_steps_is_counted(bench, with_engine):
    engine = with_engine(size=4)
    engine.late_seconds, step = 7.0, engine.step  # of its own check

    def late_step():
        engine.late_seconds += 0.25
        return step()

    engine.step = late_step
    bench.give(2)
    bench.finish()
    seconds = bench.worker._pulse.stats().seconds["late"]
    assert seconds == 0.25 * len(bench.engine_saw("step")) > 0


def test_places_that_are_empty_for_want_of_pictures_are_counted(bench, with_engine, loader):
    engine = with_engine(size=4)
    refs = bench.give(6)
    bench.wait(lambda: loader.loading == 6)
    loader.answers = [prepared(ref) for ref in refs[:4]]
    bench.wait_for_results(4)
    assert bench.worker._pulse.stats().seconds["starved"] == 0.0, "all places were taken"
    engine.steps = 2
    engine.go_on.clear()
    loader.full = True  # so that the fifth goes alone
    loader.answers = [prepared(refs[4])]
    bench.wait(lambda: len(bench.engine_saw("step")) > 1)
    begin = bench.worker._pulse.stats().seconds["starved"]
    time.sleep(0.1)
    engine.go_on.set()
    bench.wait_for_results(5)
    assert bench.worker._pulse.stats().seconds["starved"] - begin >= 0.75 * 0.09, "three of four places"
    loader.answers = [prepared(refs[5])]
    bench.finish()


def test_the_last_word_tells_the_end_from_waiting_for_work(bench, with_engine):
    with_engine()
    bench.wait(lambda: bench.sent(Ready))
    time.sleep(0.1)
    bench.give(2)
    bench.wait_for_results(2)
    time.sleep(0.2)
    bench.finish()
    seconds = bench.sent(Left)[0].stats.seconds
    assert seconds["waiting"] >= 0.09
    assert 0.19 <= seconds["ending"] < 10


def test_a_group_that_failed_is_prepared_again(bench, with_engine, loader):
    """Its inputs lay in memory that the loaders may have used again."""
    with_engine(fault=lambda keys: RuntimeError("bad") if len(keys) == 2 else None)
    refs = bench.give(2)
    loader.answers = [prepared(ref) for ref in refs]
    bench.wait(lambda: loader.loading == 2 and bench.engine_saw("step"))
    assert bench.captioned() == []
    loader.answers = [prepared(refs[1]), Refused(refs[0], "Vanished", "it is gone")]
    bench.wait_for_results(2)
    assert bench.captioned() == [refs[1]]
    assert bench.failed() == {refs[0]: "Vanished"}


def test_what_is_ready_goes_in_when_the_memory_for_more_is_full(bench, with_engine, loader):
    with_engine(size=4)
    refs = bench.give(3)
    bench.wait(lambda: loader.loading == 3)
    loader.answers = [prepared(ref) for ref in refs[:2]]
    time.sleep(0.1)
    assert bench.groups() == []
    loader.full = True
    bench.wait_for_results(2)
    assert bench.groups() == [tuple(refs[:2])]


def test_stats_tell_the_stage_and_count_up(bench, monkeypatch):
    monkeypatch.setattr(Pulse, "_beat", BEAT)
    monkeypatch.setattr(caption.pulse, "STATS_EVERY", 0.02)
    engine = FakeEngine(bench.log)
    monkeypatch.setattr(caption.engine, "load_engine", lambda options: engine)
    bench.start()
    bench.wait(lambda: any(one.stage == "waiting" for one in bench.sent(Stats)))
    engine.go_on.clear()
    bench.give(2)
    bench.wait(lambda: any(one.stage == "generating" for one in bench.sent(Stats)))
    before = bench.sent(Stats)[-1]
    bench.wait(lambda: bench.sent(Stats)[-1].seconds["generating"] > before.seconds["generating"])
    engine.go_on.set()
    bench.wait(lambda: bench.sent(Stats)[-1].steps > before.steps)
    assert bench.sent(Hello)[0].pid == os.getpid()


@pytest.mark.parametrize(
    ("error", "words"),
    [("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has 8 GiB of which 1 GiB is free. Including "
      "non-PyTorch memory, this process has 6 GiB memory in use. See documentation for Memory Management",
      "RuntimeError: CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has 8 GiB of which 1 GiB is "
      "free. A model larger than one GPU needs --gpus-per-worker 2 or more"),
     ("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other API "
      "call", "RuntimeError: CUDA error: device-side assert triggered")],
)  # fmt: skip
def test_what_torch_tells_programmers_is_not_told_to_users(bench, monkeypatch, error, words):
    def load_engine(options):
        raise RuntimeError(error)

    monkeypatch.setattr(caption.engine, "load_engine", load_engine)
    bench.start()
    bench.end()
    assert bench.sent(NotLoaded)[0].message == words


def test_a_request_that_the_engine_refuses_fails_and_its_neighbours_go_on(bench, with_engine):
    engine = with_engine()
    step = engine.step
    engine.step = lambda: [Refusal(one.key, ValueError("odd")) if one.key == (1, 1) else one for one in step()]
    refs = bench.give(3)
    bench.wait_for_results(3)
    assert bench.failed() == {refs[1]: "EngineFailed"}
    assert bench.sent(Failed)[0].failures[0].message == "ValueError: odd"
    assert bench.captioned() == [refs[0], refs[2]]
    assert [len(group) for group in bench.groups()] == [3], "nobody was done again"


# ---- adapters ----


def test_an_adapter_is_changed_when_the_engine_is_empty_and_its_stretch_is_over(bench, with_engine):
    engine = with_engine(size=2, steps=2)
    engine.go_on.clear()
    bare = bench.give(3)
    french = bench.give(2, lora="fr")
    bare += bench.give(3)
    bench.wait(lambda: bench.worker._mail.empty() and bench.engine_saw("step"))
    engine.go_on.set()
    bench.wait_for_results(8)
    assert bench.engine_saw("adapt") == ["fr"] and [message.path for message in bench.sent(Adapted)] == ["fr"]
    assert set(bench.captioned()[:6]) == set(bare) and set(bench.captioned()[6:]) == set(french)
    bench.finish()


def test_a_group_that_runs_alone_does_so_under_its_own_adapter(bench, with_engine):
    with_engine(size=4)
    bench.give(2)
    alone = bench.give(2, alone=True, lora="fr")
    bench.wait_for_results(4)
    last = bench.give(1)
    bench.wait_for_results(5)
    assert bench.engine_saw("adapt") == ["fr", None] and tuple(alone) in bench.groups()
    assert bench.captioned()[-1] == last[0]


@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_that_does_not_fit_fails_its_images_and_is_tried_once(bench, with_engine, alone):
    with_engine(size=4, unfit={"other": DoesNotFit("of another model")})
    doomed = bench.give(3, alone=alone, lora="other")
    bench.wait_for_results(3)
    good = bench.give(2)
    doomed += bench.give(2, lora="other")
    good += bench.give(2, lora="fr")
    bench.wait_for_results(9)
    assert bench.failed() == dict.fromkeys(doomed, "AdapterUnusable") and set(bench.captioned()) == set(good)
    assert bench.engine_saw("adapt").count("other") == 1
    assert not bench.sent(Started) or {ref for started in bench.sent(Started) for ref in started.refs} == set(good)
    bench.finish()


def test_a_device_that_fails_while_an_adapter_is_changed_blames_no_image(bench, with_engine):
    with_engine(unfit={"fr": RuntimeError("CUDA error: unspecified launch failure")})
    bench.give(2, lora="fr")
    bench.wait(lambda: bench.sent(Broken))
    bench.end()
    assert not bench.sent(Started) and not bench.failed()
