"""Dispatcher without processes: who is given what, and what becomes of it."""

import pytest

from caption.crew import FRUITLESS_DEATHS, Died, GivenUp, Member, Retired
from caption.devices import Seat
from caption.dispatch import Dispatcher
from caption.errors import ModelDoesNotLoad, NoWorkerLeft
from caption.item import Item
from caption.messages import Batch, Captioned, Failed, Failure, Loaded, Result, Started
from caption.precision import Precision
from caption.schedule import make_schedule
from caption.settings import Settings


def items(count):
    return [Item(i, f"{i}.png", f"{i}.png", f"/in/{i}.png", i) for i in range(count)]


class FakeCrew:
    """Members that are ready, and whatever a test lets them say."""

    patience = 0.0

    def __init__(self, count):
        self.members, self.sent, self.events, self.joining = [], {}, [], count
        self.working = self.assembled = True
        self.take_in()

    def take_in(self):
        came = [Member(Seat(f"cpu{len(self.members) + number}", "cpu", "", None, 1)) for number in range(self.joining)]
        for member in came:
            member.state, self.sent[member.name] = "ready", []
        self.members += came
        self.joining = 0
        return came

    def begin(self, member):
        member.begun = True

    def send(self, member, message):
        self.sent[member.name].append(message)

    def poll(self, timeout):
        events, self.events = self.events, []
        return events

    def begun(self):
        return [member.begun for member in self.members]

    def batches(self, number):
        return [message for message in self.sent[f"cpu{number}"] if isinstance(message, Batch)]


class Desk:
    """A dispatcher with ``count`` items for ``workers`` of 8 places.

    Args:
        more: the input goes on.
        states: of the workers; ready, where it says nothing.
    """

    def __init__(self, count, workers=2, more=False, states=(), **given):
        self.crew, self.said = FakeCrew(workers), []
        for member, state in zip(self.crew.members, states):
            member.state = state
        self.crew.assembled = {"ready"}.issuperset(states)
        schedule = make_schedule("dynamic", list(self.crew.sent), 8)
        schedule.extend(items(count))
        if not more:
            schedule.complete()
        settings, precision = Settings(batch_size=8, **given), Precision("fp32")
        self.dispatcher = Dispatcher(settings, schedule, self.crew, precision, self.said.append)
        self.dispatcher.hand_out()

    def hear(self, number, *messages):
        self.crew.events = [(self.crew.members[number], message) for message in messages]
        return self.dispatcher.collect(0)


def refs(batch):
    return [(batch.lease, position) for position in range(len(batch.items))]


def result(ref, caption="A cat."):
    return Result(ref, caption, None, "stop", 3, 10, 10, 0.1, ())


def test_no_worker_takes_what_another_could_begin_with():
    desk = Desk(16)
    counts = [sum(len(batch.items) for batch in desk.crew.batches(number)) for number in (0, 1)]
    assert sum(counts) == 16 and max(counts) - min(counts) <= 4


def test_who_has_loaded_prepares_its_own_part_and_begins_with_the_last():
    desk = Desk(30, workers=3, states=("ready", "warming", "loading"))
    assert [sum(len(one.items) for one in desk.crew.batches(number)) for number in range(3)] == [8, 8, 0]
    assert desk.crew.begun() == [False] * 3 and desk.dispatcher.began is None
    desk.crew.members[1].state = desk.crew.members[2].state = "ready"
    desk.crew.assembled = True
    desk.dispatcher.hand_out()
    assert [item.index for one in desk.crew.batches(2) for item in one.items] == list(range(20, 28))
    assert desk.crew.begun() == [True] * 3 and desk.dispatcher.began


def test_who_starts_each_for_itself_begins_alone_and_takes_what_is_there():
    desk = Desk(30, workers=3, states=("ready", "loading", "loading"), start="each")
    assert desk.crew.begun() == [True, False, False]
    assert sum(len(one.items) for one in desk.crew.batches(0)) == 8


def test_what_a_worker_held_that_died_before_it_began_is_handed_out_again():
    desk = Desk(8, workers=2, states=("warming", "loading"))
    [batch] = desk.crew.batches(0)
    desk.crew.members[0].state = "pausing"
    assert desk.hear(0, Died("it was killed", False)) == []
    desk.crew.members[0].state = "warming"
    desk.dispatcher.hand_out()
    _, again = desk.crew.batches(0)
    assert again.items == batch.items and again.lease != batch.lease and not again.alone


def test_a_worker_that_follows_one_that_had_begun_begins_as_soon_as_it_is_ready():
    desk = Desk(40, workers=2)
    first = desk.crew.members[0]
    first.state, first.begun = "loading", False
    desk.dispatcher.hand_out()
    assert not first.begun
    first.state = "ready"
    desk.dispatcher.hand_out()
    assert first.begun


def test_what_is_to_be_known_of_the_model_is_said_once_and_what_a_worker_lacks_of_each():
    desk = Desk(8)
    for number in (0, 1):
        desk.hear(number, Loaded(1.0, {"fallback": "no kernels", "remarks": ["It reads no prompt."]}))
    assert desk.said == ["cpu0: no kernels", "It reads no prompt.", "cpu1: no kernels"]


def test_nobody_is_given_more_than_two_fills_of_its_engine():
    desk = Desk(1000, more=True)
    assert [sum(len(batch.items) for batch in desk.crew.batches(number)) for number in (0, 1)] == [16, 16]
    desk.dispatcher.hand_out()
    assert sum(len(desk.crew.batches(number)) for number in (0, 1)) == 4


def test_an_item_ends_once_with_the_worker_that_did_it():
    desk = Desk(4, workers=1)
    batch = desk.crew.batches(0)[0]
    [ending] = desk.hear(0, Started(tuple(refs(batch))), Captioned((result(refs(batch)[0]),)))
    assert (ending.worker, ending.item, ending.result.caption) == ("cpu0", batch.items[0], "A cat.")
    assert desk.hear(0, Captioned((result(refs(batch)[0]),))) == []
    assert desk.dispatcher.busy


def test_what_failed_for_good_ends_with_its_reason():
    desk = Desk(1, workers=1)
    [ref] = refs(desk.crew.batches(0)[0])
    [ending] = desk.hear(0, Failed((Failure(ref, "NotAnImage", "it is a text"),)))
    assert (ending.result, ending.error, ending.message) == (None, "NotAnImage", "it is a text")
    assert not desk.dispatcher.busy


def test_a_late_result_of_a_dead_worker_is_dropped_and_its_items_go_to_others():
    desk = Desk(2, workers=2)
    [batch] = desk.crew.batches(0)
    desk.crew.members[0].state = "pausing"
    assert desk.hear(0, Died("it was killed", False)) == []
    assert "it was killed" in desk.said[0] and "done again" in desk.said[0]
    desk.dispatcher.hand_out()
    again = desk.crew.batches(1)[-1]
    assert again.items == batch.items and again.lease != batch.lease
    assert desk.hear(0, Captioned((result(refs(batch)[0], "late"),))) == []
    [ending] = desk.hear(1, Captioned((result(refs(again)[0]),)))
    assert (ending.worker, ending.result.caption) == ("cpu1", "A cat.")


def test_the_end_of_the_last_worker_after_the_last_image_is_no_failure():
    desk = Desk(1, workers=1)
    [ref] = refs(desk.crew.batches(0)[0])
    desk.crew.working, desk.crew.members[0].state = False, "gone"
    desk.hear(0, Captioned((result(ref),)), Died("the GPU is lost", True), GivenUp("the GPU is lost", None))
    desk.dispatcher.hand_out()
    assert not desk.dispatcher.busy


def test_between_images_that_end_workers_one_that_nobody_suspects_shows_whether_the_seat_is_to_blame():
    desk = Desk(40, workers=1)
    [member] = desk.crew.members
    first = desk.crew.batches(0)[0]
    desk.hear(0, Started(tuple(refs(first)[:4])), Died("it was killed", False))
    member._fruitless = FRUITLESS_DEATHS // 2
    before = len(desk.crew.batches(0))
    desk.dispatcher.hand_out()
    [control] = desk.crew.batches(0)[before:]
    assert not control.alone and len(control.items) == 1 and control.items[0] not in first.items[:4]
    desk.dispatcher.hand_out()
    assert len(desk.crew.batches(0)) == before + 1  # nothing more until that has ended
    desk.hear(0, Captioned((result(refs(control)[0]),)))
    desk.dispatcher.hand_out()
    assert desk.crew.batches(0)[before + 1].alone


def test_suspects_run_on_a_doubtful_seat_where_nothing_else_is_left():
    desk = Desk(2, workers=1)
    [batch] = desk.crew.batches(0)
    desk.hear(0, Started(tuple(refs(batch))), Died("it was killed", False))
    desk.crew.members[0]._fruitless = FRUITLESS_DEATHS // 2
    desk.dispatcher.hand_out()
    assert desk.crew.batches(0)[-1].alone and len(desk.crew.batches(0)) == 2


def test_a_worker_that_is_taken_off_while_the_others_are_lost_ends_the_run_with_a_sentence():
    desk = Desk(20, workers=2)
    desk.crew.members[0].state = "gone"
    desk.hear(0, Died("the GPU is lost", True), GivenUp("the GPU is lost", None))
    desk.crew.members[1].state, desk.crew.working = "left", False
    desk.hear(1, Retired())
    with pytest.raises(NoWorkerLeft, match="taken off"):
        desk.dispatcher.hand_out()


@pytest.mark.parametrize(("model_error", "raised"), [(None, NoWorkerLeft), ("DoesNotLoad", ModelDoesNotLoad)])
def test_what_ended_before_the_last_worker_was_given_up_is_not_lost(model_error, raised):
    desk = Desk(3, workers=1)
    ref = refs(desk.crew.batches(0)[0])[0]
    desk.crew.working = False
    endings = desk.hear(0, Captioned((result(ref),)), Died("the driver is gone", True),
                        GivenUp("the driver is gone", model_error))  # fmt: skip
    assert [ending.result.caption for ending in endings] == ["A cat."]
    with pytest.raises(raised, match="the driver is gone"):
        desk.dispatcher.hand_out()


def test_a_worker_that_joins_takes_from_the_others():
    desk = Desk(200, workers=1, more=True)
    desk.crew.joining = 1
    desk.dispatcher.hand_out()
    assert sum(len(batch.items) for batch in desk.crew.batches(1)) == 16
    assert desk.said == ["cpu1 joined."]


def test_when_the_last_worker_has_gone_one_that_joins_in_time_does_all_that_is_left():
    desk, ended = Desk(20, workers=1), []
    desk.crew.patience = 60.0
    [first, *_] = desk.crew.batches(0)
    desk.hear(0, Started(refs(first)))
    desk.crew.working, desk.crew.members[0].state = False, "gone"
    desk.hear(0, Died("its node is gone", final=True, blameless=True), GivenUp("its node is gone", None, True))
    desk.dispatcher.hand_out()
    desk.crew.working, desk.crew.joining = True, 1
    desk.dispatcher.hand_out()
    for number in range(20):  # batches at most
        if number < len(batches := desk.crew.batches(1)):
            ended += desk.hear(1, Captioned(tuple(map(result, refs(batches[number])))))
            desk.dispatcher.hand_out()
    assert sorted(ending.item.index for ending in ended) == list(range(20))
    assert all(not ending.item.attempts for ending in ended), "the loss of a node charges nobody"


def test_when_nobody_joins_in_time_the_run_ends():
    desk = Desk(20, workers=1)
    desk.crew.patience, desk.crew.working = 1e-9, False
    desk.hear(0, Died("its node is gone", final=True, blameless=True), GivenUp("its node is gone", None, True))
    with pytest.raises(NoWorkerLeft, match="no worker has come"):
        desk.dispatcher.hand_out()


def test_when_all_are_lost_before_anybody_began_those_that_join_do_all():
    desk = Desk(20, workers=2, states=("warming", "loading"))
    desk.crew.patience = 60.0
    for number in (0, 1):
        desk.crew.members[number].state = "gone"
        desk.crew.working = number == 0
        desk.hear(number, Died("its node is gone", True, True), GivenUp("its node is gone", None, True))
    desk.crew.assembled = True  # nobody is still on the way
    desk.dispatcher.hand_out()
    desk.crew.working, desk.crew.joining = True, 1
    desk.dispatcher.hand_out()
    assert desk.crew.members[2].begun and sum(len(one.items) for one in desk.crew.batches(2)) == 16
