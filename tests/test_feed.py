"""Feed: the input in order, once, a bounded way ahead, without what is done."""

import threading
import time

import pytest

from caption.errors import InputError
from caption.feed import WINDOW, Count, Feed
from caption.item import Item
from caption.schedule import Standing, make_schedule


class Numbers:
    """A source of ``count`` items that notes how far it has been read."""

    described, ignored = "numbers", 0

    def __init__(self, count):
        self.count, self.given, self.warnings = count, 0, []

    def size(self, limit=None):
        return None

    def items(self, limit=None):
        for i in range(self.count if limit is None else min(self.count, limit)):
            self.given += 1
            yield Item(i, str(i), str(i), f"/{i}", i)


def nothing_done(ids):
    return [False] * len(ids)


def fed(feed, schedule):
    while feed.fill(schedule):
        pass
    return schedule


def test_all_items_in_order_then_the_schedule_knows_that_there_are_no_more():
    for count in (0, 1, 4095, 4096, 4097, 10_000):
        feed, schedule = Feed(Numbers(count), None, nothing_done), make_schedule("round-robin", ["a"], 8)
        fed(feed, schedule)
        assert feed.ended
        assert (feed.read, feed.skipped, schedule.pending) == (count, 0, count)
        assert [item.index for item in schedule.take("a", count)] == list(range(count))


def test_at_the_end_nobody_gets_more_than_it_has_room_for():
    schedule = make_schedule("dynamic", ["a", "b"], 8)
    fed(Feed(Numbers(40), None, nothing_done), schedule)
    assert len(schedule.take("a", 32, Standing(8, 2))) == 8


def test_only_what_is_to_be_done_is_estimated():
    def estimated(items):
        return [item._replace(cost=float(item.index)) for item in items]

    feed = Feed(Numbers(10), None, lambda ids: [int(id) % 2 == 0 for id in ids], estimated)
    assert [(item.index, item.cost) for item in feed.next_items()] == [(index, index) for index in range(1, 10, 2)]


def test_what_is_done_is_left_out_and_counted():
    def done(ids):
        return [int(id) % 3 == 0 for id in ids]

    feed, schedule = Feed(Numbers(10_000), None, done), make_schedule("round-robin", ["a"], 8)
    fed(feed, schedule)
    assert (feed.read, feed.skipped) == (10_000, 3334)
    assert [item.index for item in schedule.take("a", 10_000)] == [i for i in range(10_000) if i % 3]


def test_a_whole_block_that_is_done_is_not_the_end():
    feed = Feed(Numbers(9_000), None, lambda ids: [int(id) < 8_500 for id in ids])
    schedule = make_schedule("dynamic", ["a"], 8)
    assert feed.fill(schedule)
    assert schedule.pending == 0
    fed(feed, schedule)
    assert schedule.pending == 500


@pytest.mark.parametrize("limit", [0, 1, 4096, 5000])
def test_limit_counts_items_of_the_input_done_or_not(limit):
    source = Numbers(100_000)
    feed = Feed(source, limit, lambda ids: [int(id) < 10 for id in ids])
    schedule = fed(feed, make_schedule("dynamic", ["a"], 8))
    assert (feed.read, schedule.pending, feed.skipped) == (limit, max(0, limit - 10), min(limit, 10))
    assert source.given == limit, "not one item too far is read"


def test_the_input_is_read_only_a_window_ahead_and_goes_on_as_items_are_taken():
    source = Numbers(10_000_000)
    feed, schedule = Feed(source, None, nothing_done), make_schedule("dynamic", ["a", "b"], 8)
    fed(feed, schedule)
    assert WINDOW - 4096 < schedule.pending <= WINDOW
    assert source.given == schedule.pending
    assert not feed.fill(schedule)
    schedule.take("a", 10_000)
    fed(feed, schedule)
    assert source.given <= WINDOW + 10_000
    assert schedule.pending > WINDOW - 4096


def test_a_source_that_breaks_is_not_taken_for_its_end():
    class Torn(Numbers):
        def items(self, limit=None):
            yield from super().items(limit)
            raise InputError("row 100 is broken", "mend it")

    feed, schedule = Feed(Torn(100), None, nothing_done), make_schedule("dynamic", ["a"], 8)
    with pytest.raises(InputError):
        feed.fill(schedule)
    assert not feed.ended


def wait(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


@pytest.mark.parametrize(("limit", "total"), [(None, 5000), (10, 10), (9999, 5000)])
def test_count_tells_the_size_in_the_end(limit, total):
    count = Count(Numbers(5000), limit)
    assert wait(lambda: count.total == total)


def test_count_is_unknown_while_it_counts():
    go_on = threading.Event()

    class Slow(Numbers):
        def items(self, limit=None):
            yield from super().items(limit)
            assert go_on.wait(10)

    count = Count(Slow(3), None)
    assert count.total is None
    go_on.set()
    assert wait(lambda: count.total == 3)


@pytest.mark.parametrize("error", [InputError("broken", "mend it"), OSError(5, "Input/output error")])
def test_count_leaves_it_to_the_run_to_complain(error, monkeypatch):
    printed = []
    monkeypatch.setattr(threading, "excepthook", printed.append)

    class Broken(Numbers):
        def items(self, limit=None):
            yield from super().items(limit)
            raise error

    count = Count(Broken(3), None)
    for thread in threading.enumerate():
        if thread.name == "count":
            thread.join(10)
    assert count.total is None
    assert printed == []
