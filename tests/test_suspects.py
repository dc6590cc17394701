"""Suspects: who runs by himself after a death, and where."""

import pytest

from caption.item import Item
from caption.suspects import Suspects


@pytest.fixture
def suspects():
    return Suspects()


def items(count):
    return [Item(number, f"{number}.png", f"{number}.png", f"/in/{number}.png", number) for number in range(count)]


def test_halves_of_a_group_come_before_what_waits(suspects):
    five, [other] = items(5), items(1)
    suspects.add([other])
    suspects.split(five)
    assert [suspects.take("gpu0", ["gpu0"]) for _ in range(3)] == [five[:3], five[3:], [other]]
    assert not suspects and suspects.take("gpu0", ["gpu0"]) is None


def test_one_that_was_not_alone_inside_stays_one(suspects):
    [one] = items(1)
    suspects.split([one])
    assert suspects.take("gpu0", ["gpu0"]) == [one] and not suspects


def test_a_group_is_tried_on_another_seat_than_that_which_it_ended(suspects):
    group, seats = items(2), ["gpu0", "gpu1"]
    suspects.inside_at_death("gpu0", group)
    suspects.add(group)
    assert suspects.take("gpu0", seats) is None
    assert suspects.take("gpu1", seats) == group


def test_where_all_seats_that_are_left_have_ended_with_it_any_takes_it(suspects):
    group, seats = items(2), ["gpu0", "gpu1"]
    suspects.inside_at_death("gpu0", group)
    suspects.inside_at_death("gpu1", group[:1])
    suspects.add(group)
    assert suspects.take("gpu0", seats) == group
    suspects.add(group)
    assert suspects.take("gpu1", ["gpu1"]) == group


def test_a_group_that_waits_for_another_seat_holds_up_nobody(suspects):
    first, second, third = items(3)
    suspects.inside_at_death("gpu0", [first])
    suspects.add([first])
    suspects.add([second, third])
    assert suspects.take("gpu0", ["gpu0", "gpu1"]) == [second, third]


def test_one_is_convicted_when_workers_on_several_seats_or_on_all_that_are_left_ended_with_it_alone(suspects):
    [one, neighbour], seats = items(2), ["gpu0", "gpu1"]
    suspects.inside_at_death("gpu1", [one, neighbour])
    suspects.inside_at_death("gpu0", [one])
    assert not suspects.convicted(one, seats), "gpu0 may be broken, and the other worker had two inside"
    assert suspects.convicted(one, ["gpu0"])
    suspects.inside_at_death("gpu1", [one])
    assert suspects.convicted(one, [*seats, "gpu2"]) and not suspects.convicted(neighbour, seats)


def test_what_came_to_its_end_is_forgotten(suspects):
    [one] = items(1)
    suspects.inside_at_death("gpu0", [one])
    suspects.forget(one)
    suspects.add([one])
    assert suspects.take("gpu0", ["gpu0", "gpu1"]) == [one] and not suspects.convicted(one, ["gpu0"])
