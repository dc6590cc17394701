"""Lanes: pictures wait by adapter, and an adapter is changed only where nothing more of the open one comes."""

import pytest

from caption.engine import Adapter, DoesNotFit
from caption.lanes import Lanes
from caption.messages import Prepared

A, B = Adapter("a"), Adapter("b", 0.5)


def prepared(number):
    return Prepared((1, number), {}, 1, 1)


class Engine:
    def __init__(self, misfits=()):
        self.misfits, self.taken = misfits, []

    def adapt(self, adapter):
        self.taken.append(adapter)
        if adapter in self.misfits:
            raise DoesNotFit("no")


def test_the_open_lane_is_waited_for_unless_the_loaders_hold_too_much_of_others():
    lanes = Lanes(None)
    lanes.expect(None)
    lanes.expect(A)
    lanes.arrive(A, prepared(1))
    assert lanes.following(now=False) is None
    assert lanes.following(now=True) == (A,)
    lanes.arrive(None, None)
    assert lanes.following(now=False) == (A,)


def test_lanes_follow_in_the_order_in_which_they_were_first_wanted():
    lanes, engine = Lanes(None), Engine()
    for adapter in (B, A, B):
        lanes.expect(adapter)
    for number, adapter in enumerate((A, B, B)):
        lanes.arrive(adapter, prepared(number))
    order = []
    while turn := lanes.following(now=False):
        lanes.change(engine, *turn)
        order.append((lanes.open, len(lanes.ready)))
        lanes.ready.clear()
    assert order == [(B, 2), (A, 1)] and engine.taken == [B, A]


def test_the_bare_model_is_an_adapter_to_change_to():
    lanes = Lanes(A)
    lanes.expect(None)
    lanes.arrive(None, prepared(1))
    assert lanes.following(now=False) == (None,)


def test_an_adapter_that_does_not_fit_is_tried_once_and_leaves_the_bare_model():
    lanes, engine = Lanes(A), Engine(misfits=[B])
    for _ in range(2):
        with pytest.raises(DoesNotFit):
            lanes.change(engine, B)
    assert engine.taken == [B] and lanes.open is None
    lanes.change(engine, A)
    assert lanes.open == A
