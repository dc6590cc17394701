"""Idle: the shares of a run add up, and the user hears what to do."""

import pytest

from caption.idle import sentences, shares

SPENT = {"loading": 8.0, "generating": 60.0, "starved": 6.0, "late": 2.0, "preprocessing": 12.0, "waiting": 3.0}
SPENT |= {"ending": 5.0}


def test_the_shares_add_up_to_one():
    found = shares(SPENT, 100.0)
    assert sum(found.values()) == pytest.approx(1)
    parts = {"computing": 0.52, "slots": 0.06, "host": 0.02, "pictures": 0.12, "work": 0.03, "end": 0.05, "start": 0.2}
    assert found == parts


def test_a_worker_that_never_answered_spent_all_at_the_start():
    assert shares({}, 10.0)["start"] == 1.0
    assert shares({}, 0.0) == {}


def test_clocks_that_disagree_make_no_negative_share():
    found = shares({"generating": 10.1}, 10.0)
    assert (found["computing"], found["start"]) == (1.0, 0.0)


def test_a_device_that_only_waited_for_the_host_computed_nothing_and_not_less():
    found = shares({"generating": 10.0, "starved": 0.5, "late": 10.0}, 20.0)
    assert (found["computing"], found["host"]) == (0.0, 0.5)


def test_each_worker_is_told_and_late_pictures_name_the_option():
    idle = {"gpu0": shares(SPENT, 100.0), "gpu1": shares({"generating": 100.0}, 100.0)}
    assert sentences(idle, 100.0, 4) == [
        "gpu0 computed 58% of the time, 6% of it lost in slots that waited for pictures; it waited 2% for the host, "
        "12% for pictures, 3% for work, 20% at the start, 5% at the end.",
        "gpu1 computed 100% of the time.",
        "gpu0 waited for pictures up to 18% of the time: raise --loaders (now 4) if this machine has cores to spare.",
    ]


def test_a_short_run_says_nothing():
    assert sentences({"gpu0": shares(SPENT, 9.0)}, 9.0, 4) == []
