"""Leases: only the present holder's results count, and a death says who was inside."""

from caption.item import Item
from caption.leases import Leases


def items(count, first=0):
    return [Item(i, f"{i}.png", f"{i}.png", f"/in/{i}.png", i) for i in range(first, first + count)]


def refs(lease, *positions):
    return [(lease, position) for position in positions]


def test_each_result_settles_its_own_item_once():
    leases, lent = Leases(), items(3)
    lease = leases.grant("gpu0", lent)
    assert leases.settle((lease, 1)) == lent[1]
    assert leases.settle((lease, 1)) is None
    assert leases.settle((lease, 0)) == lent[0]
    assert len(leases) == leases.holds("gpu0") == 1


def test_results_of_a_revoked_lease_are_dropped_even_when_its_item_is_lent_again():
    leases, lent = Leases(), items(2)
    old = leases.grant("gpu0", lent)
    held = leases.revoke("gpu0")
    new = leases.grant("gpu1", held.fresh)
    assert old != new
    assert leases.settle((old, 0)) is None
    assert leases.settle((new, 0)) == lent[0]


def test_the_same_worker_after_a_restart_gets_another_number():
    leases, lent = Leases(), items(1)
    old = leases.grant("gpu0", lent)
    leases.revoke("gpu0")
    new = leases.grant("gpu0", lent)
    assert leases.settle((old, 0)) is None
    assert leases.holds("gpu0") == 1
    assert leases.settle((new, 0)) == lent[0]


def test_a_late_start_of_a_revoked_lease_makes_nobody_suspect():
    leases, lent = Leases(), items(2)
    old = leases.grant("gpu0", lent)
    leases.revoke("gpu0")
    leases.grant("gpu0", lent)
    leases.start(refs(old, 0, 1))
    assert leases.unstarted("gpu0") == 2
    held = leases.revoke("gpu0")
    assert held.fresh == lent
    assert held.suspects == []


def test_suspects_come_back_as_the_groups_they_went_in():
    leases, lent = Leases(), items(7)
    first, second = leases.grant("gpu0", lent[:4]), leases.grant("gpu0", lent[4:])
    leases.start(refs(first, 0, 1))
    leases.start([(first, 2), (second, 0)])  # a group of two hand-outs
    held = leases.revoke("gpu0")
    assert held.suspects == [[lent[0], lent[1]], [lent[2], lent[4]]]
    assert held.fresh == [lent[3], lent[5], lent[6]]
    assert len(leases) == leases.holds("gpu0") == leases.unstarted("gpu0") == 0


def test_what_ended_before_the_death_is_no_suspect():
    leases, lent = Leases(), items(4)
    lease = leases.grant("gpu0", lent)
    leases.start(refs(lease, 0, 1, 2, 3))
    leases.settle((lease, 1))
    assert leases.revoke("gpu0").suspects == [[lent[0], lent[2], lent[3]]]


def test_a_group_started_again_in_halves_refines_the_suspects():
    leases, lent = Leases(), items(4)
    lease = leases.grant("gpu0", lent)
    leases.start(refs(lease, 0, 1, 2, 3))
    leases.start(refs(lease, 0, 1))
    leases.start(refs(lease, 2, 3))
    leases.start(refs(lease, 2))
    assert leases.revoke("gpu0").suspects == [[lent[0], lent[1]], [lent[2]], [lent[3]]]


def test_one_workers_death_leaves_the_others_items():
    leases, lent = Leases(), items(4)
    leases.grant("gpu0", lent[:2])
    lease = leases.grant("gpu1", lent[2:])
    assert leases.revoke("gpu0").fresh == lent[:2]
    assert leases.holds("gpu1") == len(leases) == 2
    assert leases.settle((lease, 1)) == lent[3]


def test_counts_follow_grant_start_and_settle():
    leases = Leases()
    lease = leases.grant("gpu0", items(5))
    leases.grant("gpu1", items(2, first=5))
    assert (len(leases), leases.holds("gpu0"), leases.unstarted("gpu0")) == (7, 5, 5)
    leases.start(refs(lease, 0, 1, 2))
    assert (leases.holds("gpu0"), leases.unstarted("gpu0")) == (5, 2)
    leases.settle((lease, 0))  # a started one
    assert (leases.holds("gpu0"), leases.unstarted("gpu0")) == (4, 2)
    leases.settle((lease, 4))  # one that was refused before it started
    assert (len(leases), leases.holds("gpu0"), leases.unstarted("gpu0")) == (5, 3, 1)


def test_a_worker_that_never_held_anything_has_nothing_to_give():
    held = Leases().revoke("gpu0")
    assert (held.fresh, held.suspects) == ([], [])


def test_a_group_that_was_to_run_alone_stays_a_group_when_its_worker_dies_before_it_started():
    leases = Leases()
    batch = [Item(index, f"{index}.jpg", f"{index}.jpg", "", index) for index in range(4)]
    lease = leases.grant("gpu0", batch[:3], alone=True)
    leases.grant("gpu0", batch[3:])
    assert leases.settle((lease, 1)) == batch[1]
    held = leases.revoke("gpu0")
    assert held.waiting == [[batch[0], batch[2]]]
    assert held.fresh == [batch[3]]
    assert held.suspects == []
