"""Schedule: every item exactly once, whoever takes, gives back or leaves; and what each of the three kinds promises."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from caption.item import Item
from caption.schedule import KINDS, make_schedule, stretches

SIX = tuple(f"gpu{number}" for number in range(6))


def items(count, first=0):
    return [Item(i, f"{i}.png", f"{i}.png", f"/in/{i}.png", i) for i in range(first, first + count)]


def filled(kind, workers, count, round_size=8):
    schedule = make_schedule(kind, workers, round_size)
    schedule.extend(items(count))
    schedule.complete()
    return schedule


def indices(taken):
    return [item.index for item in taken]


# ---- each kind's promise ----


def test_round_robin_deals_50_images_to_6_workers_as_documented():
    schedule = filled("round-robin", SIX, 50)
    assert list(schedule.sizes().values()) == [9, 9, 8, 8, 8, 8]
    assert indices(schedule.take("gpu1", 50)) == list(range(1, 50, 6))


def test_round_robin_goes_on_where_the_last_block_ended():
    schedule = make_schedule("round-robin", SIX, 8)
    for first in range(0, 50, 5):
        schedule.extend(items(5, first))
    assert list(schedule.sizes().values()) == [9, 9, 8, 8, 8, 8]
    assert all(indices(schedule.take(worker, 50)) == list(range(i, 50, 6)) for i, worker in enumerate(SIX))


def test_round_robin_nobody_takes_anothers():
    schedule = filled("round-robin", SIX, 50)
    assert len(schedule.take("gpu5", 50)) == 8
    assert schedule.take("gpu5", 50) == []
    assert schedule.pending == 42


def test_round_robin_the_share_of_one_that_left_goes_to_the_others_for_good():
    schedule = filled("round-robin", SIX, 50)
    schedule.leave("gpu0")
    assert sorted(schedule.sizes().values()) == [10] * 5
    schedule.extend(items(60, first=50))
    assert schedule.pending == 110
    assert set(schedule.sizes().values()) <= {21, 22, 23}


def test_dynamic_shards_are_stretches_of_the_input():
    schedule = filled("dynamic", SIX, 50)
    assert indices(schedule.first("gpu0", 50)) == list(range(8))
    assert sorted(schedule.sizes().values()) == [8, 8, 8, 8, 9, 9]


def test_dynamic_an_idle_worker_takes_from_the_end_of_the_longest_shard():
    schedule = make_schedule("dynamic", ("gpu0", "gpu1", "gpu2"), 8)
    schedule.extend(items(30))
    assert indices(schedule.take("gpu0", 10)) == list(range(10))
    assert indices(schedule.take("gpu1", 4)) == list(range(10, 14))
    assert indices(schedule.take("gpu0", 4)) == [26, 27, 28, 29]  # gpu2 has 10 left, gpu1 6
    assert indices(schedule.take("gpu2", 6)) == list(range(20, 26))  # its own, from the front
    assert indices(schedule.take("gpu2", 8)) == list(range(14, 20))  # as gpu1's are all that is left


def test_dynamic_takes_shrink_near_the_end():
    schedule, sizes = filled("dynamic", SIX, 1000), []
    while schedule.pending:
        sizes.append(len(schedule.take(SIX[len(sizes) % 6], 32)))
    assert sizes[0] == 32
    assert sizes[-12:] == [1] * 12
    assert sizes == sorted(sizes, reverse=True)


def test_dynamic_takes_do_not_shrink_while_more_input_may_come():
    schedule = make_schedule("dynamic", SIX, 8)
    schedule.extend(items(60))
    assert len(schedule.take("gpu0", 32)) == 32


@pytest.mark.parametrize("slow", [1, 2, 3])
def test_dynamic_nobody_holds_much_while_another_idles(slow):
    """Simulated: gpu0 takes ``slow`` times as long an image; each asks for 32 at a time, as soon as it has none."""
    schedule, clock, idle_since = filled("dynamic", SIX, 2000), dict.fromkeys(SIX, 0.0), []
    while len(idle_since) < len(SIX):
        worker = min(clock, key=clock.get)
        taken = schedule.take(worker, 32)
        if not taken:
            idle_since.append(clock.pop(worker))
            continue
        clock[worker] += len(taken) * (slow if worker == "gpu0" else 1)
    assert max(idle_since) - min(idle_since) <= 0.03 * max(idle_since)


def test_lockstep_a_round_ends_for_all_before_the_next_begins():
    schedule = filled("lockstep", ("gpu0", "gpu1"), 12, round_size=2)
    assert schedule.round == 0
    assert indices(schedule.take("gpu0", 8)) == [0, 2]
    assert schedule.take("gpu0", 8) == []
    schedule.ended("gpu0", 2)
    assert schedule.take("gpu0", 8) == [], "gpu1 has not begun its part"
    assert indices(schedule.take("gpu1", 1)) == [1]
    schedule.ended("gpu1", 1)
    assert schedule.take("gpu0", 8) == [], "gpu1 has one item of its part left"
    assert indices(schedule.take("gpu1", 8)) == [3]
    assert schedule.take("gpu0", 8) == [], "gpu1 still holds it"
    schedule.ended("gpu1", 1)
    assert indices(schedule.take("gpu0", 8)) == [4, 6]
    assert schedule.round == 2


def test_lockstep_what_is_given_back_belongs_to_the_same_round():
    schedule = filled("lockstep", ("gpu0", "gpu1"), 8, round_size=2)
    taken = schedule.take("gpu0", 2)
    schedule.take("gpu1", 2)
    schedule.ended("gpu1", 2)
    schedule.give_back("gpu0", taken)
    assert schedule.take("gpu1", 2) == []
    assert schedule.take("gpu0", 2) == taken
    assert schedule.round == 1


def test_lockstep_one_that_leaves_hands_its_part_of_the_round_on():
    schedule = filled("lockstep", ("gpu0", "gpu1", "gpu2"), 12, round_size=2)
    schedule.take("gpu1", 2)
    schedule.ended("gpu1", 2)
    schedule.leave("gpu0")  # 0 and 3 are of this round
    part = schedule.take("gpu1", 8) + schedule.take("gpu2", 8)
    assert sorted(indices(part)) == [0, 2, 3, 5]
    assert schedule.round == 1


def test_lockstep_what_one_that_left_had_begun_still_belongs_to_its_round():
    """It runs on as suspects of the coordinator; until it has ended, the round has not."""
    schedule = filled("lockstep", ("gpu0", "gpu1"), 8, round_size=2)
    schedule.take("gpu0", 2)
    schedule.take("gpu1", 2)
    schedule.ended("gpu1", 2)
    schedule.leave("gpu0")
    assert schedule.take("gpu1", 2) == []
    schedule.ended("gpu0", 2)
    assert len(schedule.take("gpu1", 2)) == 2
    assert schedule.round == 2


def test_lockstep_asking_while_there_is_no_input_begins_no_round():
    schedule = make_schedule("lockstep", ("gpu0", "gpu1"), 2)
    for _ in range(5):
        assert schedule.take("gpu0", 2) == []
    assert schedule.round == 0


@pytest.mark.parametrize("kind", KINDS)
def test_given_back_items_are_the_next_ones_in_their_order(kind):
    schedule = make_schedule(kind, ("gpu0", "gpu1"), 8)
    schedule.extend(items(16))
    taken = schedule.take("gpu0", 4)
    schedule.give_back("gpu0", taken)
    assert schedule.take("gpu0", 4) == taken


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_worker_cannot_leave_items_behind(kind):
    schedule = filled(kind, ("gpu0",), 3)
    with pytest.raises(ValueError, match="last worker"):
        schedule.leave("gpu0")


def of_adapters(names, first=0):
    return [item._replace(lora=name if name != "-" else None) for item, name in zip(items(len(names), first), names)]


def batches(schedule, worker, want=4):
    taken = []
    while batch := schedule.take(worker, want):
        taken.append("".join(item.lora or "-" for item in batch))
        schedule.ended(worker, len(batch))
    return taken


@pytest.mark.parametrize("kind", KINDS)
def test_all_items_of_a_batch_want_the_same_adapter(kind):
    schedule = make_schedule(kind, ["a", "b"], 4)
    schedule.extend(of_adapters("ab-abb--aabbab"))
    schedule.complete()
    seen = []
    while schedule.pending:
        seen += [batch for worker in "ab" for batch in batches(schedule, worker)]
    assert sum(map(len, seen)) == 14 and all(len(set(batch)) == 1 for batch in seen)


def test_dynamic_brings_the_items_of_an_adapter_together_across_blocks():
    schedule = make_schedule("dynamic", ["a"], 8)
    schedule.extend(of_adapters("ab-ab-"))
    first = schedule.take("a", 1)
    schedule.extend(of_adapters("ba-ba-", first=6))
    rest = "".join(batches(schedule, "a", 12))
    assert (first[0].lora, rest) == (None, "---aaaabbbb")


def test_dynamic_gives_each_worker_few_adapters():
    schedule = make_schedule("dynamic", ["a", "b"], 8)
    for block in range(3):
        schedule.extend(of_adapters("abab" * 3, first=12 * block))
    assert {item.lora for item in schedule.first("a", 100)} == {"a"}
    assert {item.lora for item in schedule.first("b", 100)} == {"b"}


def test_dynamic_the_share_of_one_that_left_is_brought_together_too():
    schedule = make_schedule("dynamic", ["a", "b"], 8)
    schedule.extend(of_adapters("abab" * 2))
    schedule.extend(of_adapters("cdcd" * 2, first=8))
    schedule.leave("b")
    assert "".join(batches(schedule, "a", 16)) == "aaaaccccbbbbdddd"


def test_dynamic_a_worker_does_not_take_from_others_because_its_next_items_want_another_adapter():
    schedule = make_schedule("dynamic", ["a", "b"], 8)
    schedule.extend(of_adapters("aabbcccc"))
    assert [item.lora for item in schedule.take("a", 8)] == ["a", "a"]
    assert schedule.sizes() == {"a": 2, "b": 4}


def test_stretches_cover_all_rows_evenly():
    assert stretches(50, 6) == [(0, 8), (8, 16), (16, 25), (25, 33), (33, 41), (41, 50)]
    assert stretches(2, 4) == [(0, 0), (0, 1), (1, 1), (1, 2)]


# ---- under any sequence of calls ----

ROUND = 3


class Model(RuleBasedStateMachine):
    """A run as a schedule sees it: who holds what, what has ended, and what is with nobody.

    What a worker that leaves had begun is done by others (``orphans``), as the coordinator does it.
    """

    kind = "dynamic"

    @initialize(workers=st.integers(1, 5))
    def begin(self, workers):
        self.names = [f"gpu{number}" for number in range(workers)]
        self.schedule = make_schedule(self.kind, self.names, ROUND)
        self.held = {name: [] for name in self.names}
        self.orphans = []  # (who took it, item)
        self.rounds = {}  # item -> the round in which it was taken last
        self.given = self.over = 0
        self.seen = Counter()
        self.complete = False

    def working(self):
        return list(self.held)

    @precondition(lambda self: not self.complete)
    @rule(count=st.integers(0, 20), last=st.booleans())
    def extend(self, count, last):
        self.schedule.extend(items(count, self.given))
        self.given += count
        if last:
            self.complete = True
            self.schedule.complete()

    @rule(data=st.data(), want=st.integers(1, 8))
    def take(self, data, want):
        name = data.draw(st.sampled_from(self.working()))
        before = self.schedule.sizes()
        taken = self.schedule.take(name, want)
        assert len(taken) <= want
        self.held[name] += taken
        after = self.schedule.sizes()
        if self.kind != "dynamic":
            assert all(before[other] == after[other] for other in before if other != name)
        if self.kind == "lockstep" and taken:
            outside = [item for held in self.held.values() for item in held if item not in taken]
            outside += [item for _, item in self.orphans]
            assert all(self.rounds[item] == self.schedule.round for item in outside)
            self.rounds.update(dict.fromkeys(taken, self.schedule.round))

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), count=st.integers(1, 8))
    def end(self, data, count):
        name = data.draw(st.sampled_from([name for name, held in self.held.items() if held]))
        ended, self.held[name] = self.held[name][:count], self.held[name][count:]
        self.schedule.ended(name, len(ended))
        self.seen.update(ended)

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), count=st.integers(1, 8))
    def give_back(self, data, count):
        name = data.draw(st.sampled_from([name for name, held in self.held.items() if held]))
        back, self.held[name] = self.held[name][-count:], self.held[name][:-count]
        self.schedule.give_back(name, back)

    @precondition(lambda self: len(self.held) > 1)
    @rule(data=st.data(), begun=st.integers(0, 4))
    def leave(self, data, begun):
        name = data.draw(st.sampled_from(self.working()))
        held = self.held.pop(name)
        self.schedule.give_back(name, held[begun:])
        self.orphans += [(name, item) for item in held[:begun]]
        self.schedule.leave(name)

    @precondition(lambda self: self.orphans)
    @rule()
    def end_orphan(self):
        name, item = self.orphans.pop(0)
        self.schedule.ended(name, 1)
        self.seen[item] += 1

    @invariant()
    def nothing_lost_or_doubled(self):
        if not hasattr(self, "schedule"):
            return
        out = sum(map(len, self.held.values())) + len(self.orphans) + self.seen.total()
        assert self.schedule.pending + out == self.given
        assert set(self.schedule.sizes()) == set(self.held)
        assert not self.seen or max(self.seen.values()) == 1

    def teardown(self):
        """Whatever has happened, the rest comes to its end: somebody can always take when nobody holds anything."""
        if not hasattr(self, "schedule"):
            return
        self.schedule.complete()
        while self.orphans:
            self.end_orphan()
        while self.schedule.pending or any(self.held.values()):
            for name, held in self.held.items():
                self.schedule.ended(name, len(held))
                self.seen.update(held)
                held.clear()
            for name in self.held:
                self.held[name] += self.schedule.take(name, 4)
            assert any(self.held.values()) or not self.schedule.pending, "nobody may take what is pending"
        assert sorted(indices(self.seen)) == list(range(self.given))
        assert self.seen.total() == self.given


@pytest.mark.parametrize("kind", KINDS)
def test_every_item_exactly_once_whoever_takes_gives_back_or_leaves(kind):
    machine = type(f"Model_{kind}", (Model,), {"kind": kind})
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
