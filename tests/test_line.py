"""Line: what stands first goes first, to whoever is free."""

import pytest

from caption.item import Item
from caption.line import Line


def items(*indices):
    return [Item(i, f"{i}", f"{i}", f"/{i}", i) for i in indices]


def test_workers_take_in_the_order_of_the_input():
    line = Line(["a", "b"])
    line.extend(items(*range(100)))
    assert line.take("a", 3) + line.take("b", 2) + line.take("a", 1) == items(*range(6))
    assert line.pending == 94


def test_one_worker_does_not_take_all_of_a_short_line():
    line = Line(["a", "b"])
    line.extend(items(*range(8)))
    assert [len(line.take(worker, 8)) for worker in ("a", "b", "a", "b")] == [2, 2, 1, 1]
    assert line.take("a", 0) == []


def test_what_comes_back_stands_first_again():
    line = Line(["a"])
    line.extend(items(*range(20)))
    taken = line.take("a", 4)
    line.give_back("a", taken[1:])
    assert line.take("a", 4) == items(1, 2, 3, 4)


def test_the_others_go_on_when_one_has_left():
    line = Line(["a", "b"])
    line.extend(items(*range(4)))
    line.leave("a")
    assert list(line.sizes()) == ["b"]
    assert line.take("b", 9) == items(0, 1)


@pytest.mark.parametrize("left", [[], [1, 3]])
def test_items_that_nobody_wants_any_more_are_taken_out(left):
    line = Line(["a"])
    line.extend(items(*range(5)))
    removed = line.remove(lambda item: item.index not in left)
    assert [item.index for item in removed] == [i for i in range(5) if i not in left]
    assert line.pending == len(left)
