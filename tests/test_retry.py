"""Retry: what may pass is tried again, differently where the same call gives the same error; all else is given up."""

import inspect

import pytest

from caption import errors
from caption.item import Change, Item
from caption.retry import next_try
from caption.settings import Settings

ITEM = Item(7, "a.png", "a.png", "/in/a.png", 49, prompt="what?", extra={"page": 3})
TRANSIENT = {"Unreadable", "DecoderCrashed", "DecoderHung", "OutOfMemory", "EngineFailed", "WorkerDied", "NoScore"}
ALL = {
    name
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.ItemError) and value is not errors.ItemError
}


def tries(error, max_retries, max_pixels=1000, item=ITEM):
    """All tries after the first failure, until it is given up."""
    settings, made = Settings(max_retries=max_retries, max_pixels=max_pixels), []
    while item := next_try(item, error, settings):
        made.append(item)
        assert len(made) < 100
    return made


def test_which_classes_may_pass():
    assert {name for name in ALL if getattr(errors, name).transient} == TRANSIENT


@pytest.mark.parametrize("error", sorted(ALL - TRANSIENT))
def test_a_picture_that_is_broken_stays_broken(error):
    assert tries(error, 5) == []


@pytest.mark.parametrize("error", sorted(TRANSIENT))
@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_others_are_tried_again_up_to_max_retries(error, max_retries):
    made = tries(error, max_retries)
    assert [item.attempts for item in made] == list(range(1, max_retries + 1))
    assert [len(item.retries) for item in made] == [item.attempts for item in made]


@pytest.mark.parametrize("error", sorted(TRANSIENT))
def test_what_the_item_is_does_not_change(error):
    for item in tries(error, 3):
        assert item._replace(attempts=0, retries=(), max_pixels=None) == ITEM


@pytest.mark.parametrize("error", ["Unreadable", "DecoderCrashed", "DecoderHung", "WorkerDied"])
def test_bad_luck_is_tried_again_unchanged_and_says_so(error):
    last = tries(error, 3)[-1]
    assert last.max_pixels is None
    assert last.retries == (Change(error, "nothing"),) * 3


def test_out_of_memory_halves_the_pixels_each_time_and_says_so():
    made = tries("OutOfMemory", 3)
    assert [item.max_pixels for item in made] == [500, 250, 125]
    assert made[-1].retries == (
        Change("OutOfMemory", "max_pixels 1000 -> 500"),
        Change("OutOfMemory", "max_pixels 500 -> 250"),
        Change("OutOfMemory", "max_pixels 250 -> 125"),
    )


def test_an_engine_error_meets_the_same_call_once_and_then_fewer_pixels():
    made = tries("EngineFailed", 3)
    assert [item.max_pixels for item in made] == [None, 500, 250]
    assert [change.changed for change in made[-1].retries] == [
        "nothing", "max_pixels 1000 -> 500", "max_pixels 500 -> 250"
    ]  # fmt: skip


def test_the_items_own_pixels_are_what_is_halved():
    assert tries("OutOfMemory", 1, item=ITEM._replace(max_pixels=80))[0].max_pixels == 40


def test_there_is_no_picture_without_pixels():
    assert [item.max_pixels for item in tries("OutOfMemory", 4, max_pixels=3)] == [1, 1, 1, 1]


def test_different_errors_count_together_and_each_is_noted():
    settings, item = Settings(max_retries=3, max_pixels=1000), ITEM
    for error in ("DecoderHung", "OutOfMemory", "WorkerDied"):
        item = next_try(item, error, settings)
    assert [change.reason for change in item.retries] == ["DecoderHung", "OutOfMemory", "WorkerDied"]
    assert item.max_pixels == 500, "what helped once is kept"
    assert next_try(item, "EngineFailed", settings) is None


def test_a_picture_below_the_pixel_budget_is_halved_from_its_own_size():
    item = Item(0, "a.jpg", "a.jpg", "", 0)
    again = next_try(item, "OutOfMemory", Settings(max_pixels=1_000_000), pixels=600)
    assert again.max_pixels == 300
    assert again.retries[0].changed == "max_pixels 600 -> 300"
