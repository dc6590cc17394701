"""Schedule: every item exactly once, whoever takes, gives back or leaves; and what each of the three kinds promises."""

import heapq
import random
from collections import Counter, deque

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
from caption.schedule import KINDS, Standing, make_schedule, stretches

SIX = tuple(f"gpu{number}" for number in range(6))


def items(count, first=0, costs=None):
    made = [Item(i, f"{i}.png", f"{i}.png", f"/in/{i}.png", i) for i in range(first, first + count)]
    return [item._replace(cost=cost) for item, cost in zip(made, costs, strict=True)] if costs else made


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
    assert list(schedule.sizes().values()) == [9, 9, 8, 8, 8, 8]
    assert indices(schedule.first("gpu0", 50)) == list(range(9))
    assert indices(schedule.first("gpu5", 50)) == list(range(42, 50))


@pytest.mark.parametrize("costs", [None, "random"])
def test_dynamic_shards_stay_of_one_length_block_by_block(costs):
    schedule, rng = make_schedule("dynamic", SIX, 8), random.Random(5)
    for first in range(0, 105, 7):
        schedule.extend(items(7, first, costs and [rng.random() for _ in range(7)]))
    assert sorted(schedule.sizes().values()) == [17, 17, 17, 18, 18, 18]


def test_dynamic_an_idle_worker_takes_from_the_longest_shard():
    schedule = make_schedule("dynamic", ("gpu0", "gpu1", "gpu2"), 8)
    schedule.extend(items(30))
    assert indices(schedule.take("gpu0", 10)) == list(range(10))
    assert indices(schedule.take("gpu1", 4)) == list(range(10, 14))
    assert indices(schedule.take("gpu0", 4)) == [20, 21, 22, 23]  # gpu2 has 10 left, gpu1 6
    assert indices(schedule.take("gpu2", 6)) == list(range(24, 30))  # its own
    assert indices(schedule.take("gpu2", 8)) == list(range(14, 20))  # as gpu1's are all that is left


def test_dynamic_costly_items_go_first_and_equal_ones_as_in_the_input():
    schedule = make_schedule("dynamic", ("gpu0",), 8)
    schedule.extend(items(4, 0, [1.0, 3.0, 3.0, 2.0]))
    schedule.extend(items(3, 4, [3.0, 9.0, 0.0]))
    assert indices(schedule.take("gpu0", 7)) == [5, 1, 2, 4, 3, 0, 6]


def test_dynamic_costly_items_are_spread_over_the_shards():
    """However they lie in the input: here all costly ones at its end, as in a folder sorted by size."""
    schedule = make_schedule("dynamic", SIX, 8)
    schedule.extend(items(50, 0, [float(index**2) for index in range(50)]))
    assert list(schedule.sizes().values()) == [9, 9, 8, 8, 8, 8]
    assert [indices(schedule.first(worker, 1)) for worker in SIX] == [[49], [48], [47], [46], [45], [44]]
    sums = [sum(item.cost for item in schedule.first(worker, 50)) for worker in SIX]
    assert max(sums) <= 1.05 * min(sums)


def test_dynamic_costs_change_only_the_order():
    given = items(50, 0, [float(index % 7) for index in range(50)])
    schedule = make_schedule("dynamic", SIX, 8)
    schedule.extend(given)
    assert sorted(item for worker in SIX for item in schedule.take(worker, 50)) == given


def test_dynamic_the_first_worker_that_is_ready_leaves_the_others_their_shards():
    """All begin together with more room than there are items: each has its own shard, nobody takes all."""
    schedule = filled("dynamic", SIX, 50)
    taken = {
        worker: schedule.take(worker, 32, Standing(128, 6, all_unstarted=50 - schedule.pending)) for worker in SIX
    }
    assert [len(taken[worker]) for worker in SIX] == [9, 9, 8, 8, 8, 8]


def test_dynamic_one_that_is_ready_alone_takes_all_it_has_room_for():
    schedule = filled("dynamic", SIX, 50)
    assert len(schedule.take("gpu3", 32, Standing(128, 1))) == 32
    assert len(schedule.take("gpu3", 32, Standing(128, 1))) == 18


def test_dynamic_leaves_half_of_what_is_not_begun_to_who_has_less_but_gives_a_batch():
    def taken(held, others, workers=4, left=400):
        schedule = filled("dynamic", [f"gpu{number}" for number in range(workers)], left)
        return len(schedule.take("gpu0", 32, Standing(512, workers, held, held + others)))

    assert taken(held=40, others=200) == 32, "eighty are half of its part of 640"
    assert taken(held=70, others=170) == 10
    assert taken(held=80, others=160) == 0
    assert taken(held=0, others=0, left=100) == 25, "its part is less than a batch"
    assert taken(held=20, others=40, left=100) == 12, "a batch is more than half of its part"
    assert taken(held=300, others=0, workers=1) == 32, "nobody else could do it"


def test_dynamic_takes_do_not_shrink_while_more_input_may_come():
    schedule = make_schedule("dynamic", SIX, 8)
    schedule.extend(items(60))
    assert [len(schedule.take("gpu0", 32, Standing(8, 6))) for _ in range(2)] == [32, 28]


def run_to_the_end(schedule, seconds, speeds, slots, batch_by_batch):
    """Simulates workers that are fed as the coordinator feeds them: up to two batches ahead.

    Args:
        seconds: of each item, at speed 1.
        speeds: of the workers by name.
        slots: items that a worker does side by side.
        batch_by_batch: a worker takes new ones only when all of its batch have ended, as by generate.

    Returns:
        When each worker ended, and the longest time it had one batch inside.
    """
    waiting, inside = {worker: deque() for worker in speeds}, dict.fromkeys(speeds, 0)
    ends, longest = dict.fromkeys(speeds, 0.0), dict.fromkeys(speeds, 0.0)
    events, now = [], 0.0

    def begin(worker, group):
        took = sum(seconds[item.index] for item in group) / speeds[worker]
        inside[worker] += len(group)
        longest[worker] = max(longest[worker], took)
        heapq.heappush(events, (now + took, worker, len(group)))

    def hand_out():
        for worker, mine in waiting.items():
            while (free := 2 * slots - len(mine)) > 0:
                unstarted = sum(map(len, waiting.values()))
                taken = schedule.take(worker, min(slots, 32, free), Standing(slots, len(speeds), len(mine), unstarted))
                if not taken:
                    break
                mine += taken
        for worker, mine in waiting.items():
            if batch_by_batch and mine and not inside[worker]:
                begin(worker, [mine.popleft() for _ in range(min(slots, len(mine)))])
            while not batch_by_batch and mine and inside[worker] < slots:
                begin(worker, [mine.popleft()])

    while True:
        before = None
        while before != (schedule.pending, len(events)):
            before = schedule.pending, len(events)
            hand_out()
        if not events:
            break
        now, worker, count = heapq.heappop(events)
        inside[worker] -= count
        ends[worker] = now
        schedule.ended(worker, count)
    assert not schedule.pending and not any(waiting.values())
    return ends, longest


@pytest.mark.parametrize("batch_by_batch", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_dynamic_nobody_ends_more_than_one_batch_after_the_others(seed, batch_by_batch):
    """Random numbers of items, workers and slots; some workers are up to ten times slower, some items fifty times."""
    rng = random.Random(seed)
    slots, count = rng.choice([1, 2, 8, 64]), rng.randint(1, 2000)
    speeds = {f"gpu{number}": rng.uniform(0.1, 1) for number in range(rng.randint(2, 8))}
    seconds = [rng.lognormvariate(0, rng.choice([0.1, 0.6, 1.0])) for _ in range(count)]
    schedule = make_schedule("dynamic", list(speeds), 8)
    for first in range(0, count, 500):
        schedule.extend(items(len(seconds[first : first + 500]), first, seconds[first : first + 500]))
    schedule.complete()
    ends, longest = run_to_the_end(schedule, seconds, speeds, slots, batch_by_batch)
    assert all(ends[worker] - min(ends.values()) <= longest[worker] * 1.000001 for worker in speeds)


def ends_of_slot_engines(schedule, lengths, speeds, slots=512, group=37):
    """When each worker ended, in seconds, with engines of slots: a turn lets a group in and makes a few tokens."""
    waiting, inside, ends = {worker: deque() for worker in speeds}, {worker: [] for worker in speeds}, {}
    turns = [(0.01 * place, worker) for place, worker in enumerate(speeds)]

    def hand_out():
        for worker, mine in waiting.items():
            while (free := 2 * slots - len(mine)) > 0:
                unstarted = sum(map(len, waiting.values()))
                taken = schedule.take(worker, min(32, free), Standing(slots, len(speeds), len(mine), unstarted))
                if not taken:
                    break
                mine += taken

    while turns:
        hand_out()
        now, worker = heapq.heappop(turns)
        mine, texts = waiting[worker], inside[worker]
        steps = 2 if min(len(mine), slots - len(texts)) >= 2 * group else 4  # as caption/engine/slots.py
        left = [length - steps for length in texts if length > steps]
        if ended := len(texts) - len(left):
            schedule.ended(worker, ended)
            ends[worker] = now
        new = [lengths[mine.popleft().index] for _ in range(min(group, len(mine), slots - len(left)))]
        inside[worker] = left + new
        if inside[worker] or schedule.pending:
            seconds = 0.0147 * len(new) + steps * (0.004 + 25e-6 * len(left)) + 0.001
            heapq.heappush(turns, (now + seconds / speeds[worker], worker))
    assert not schedule.pending and not any(waiting.values())
    return ends


def test_dynamic_texts_that_end_all_at_once_let_nobody_take_what_others_are_about_to_ask_for():
    """Long texts are begun first, the next a little shorter: hundreds end within a second, a little later elsewhere."""
    rng = random.Random(1)
    lengths = [min(256, max(16, int(rng.lognormvariate(4.4, 0.5)))) for _ in range(8800)]
    schedule = make_schedule("dynamic", list("abcd"), 8)
    schedule.extend(items(len(lengths), 0, lengths))
    schedule.complete()
    ends = ends_of_slot_engines(schedule, lengths, {"a": 1.03, "b": 0.97, "c": 0.99, "d": 1.01})
    assert max(ends.values()) - min(ends.values()) < 2


@pytest.mark.parametrize("seed", range(20))
def test_dynamic_costly_items_keep_nobody_after_the_others(seed):
    """Ten costly items at the end of the input: begun in its order, they would."""
    rng = random.Random(seed)
    seconds = [rng.uniform(0.9, 1.1) for _ in range(200)] + [30.0] * 10
    took = []
    for costs in (seconds, None):
        schedule = make_schedule("dynamic", SIX, 8)
        schedule.extend(items(210, 0, costs))
        schedule.complete()
        ends, _ = run_to_the_end(schedule, seconds, dict.fromkeys(SIX, 1.0), 1, False)
        took.append(max(ends.values()))
    ideal = sum(seconds) / len(SIX)
    assert took[0] <= 1.02 * ideal < 1.05 * ideal <= took[1]


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


def in_lockstep(parts):
    """Two workers of rounds of two; parts: for each round and worker, when it ends its items."""
    schedule = filled("lockstep", ("gpu0", "gpu1"), 4 * len(parts), round_size=2)
    for both in parts:
        for worker in ("gpu0", "gpu1"):
            assert len(schedule.take(worker, 2)) == 2
        for worker, times in zip(("gpu0", "gpu1"), both):
            for time in times:
                schedule.ended(worker, 1, time)
    return schedule


def test_lockstep_drift_is_how_long_the_first_was_ahead_of_the_last_at_a_rounds_end():
    schedule = in_lockstep([((1.0, 2.0), (1.5, 2.5)), ((4.0, 7.5), (5.0, 6.0)), ((8.0, 9.0), (8.5, 9.25))])
    rounds = schedule.rounds
    assert (rounds.begun, rounds.over, rounds.last, rounds.most, rounds.worst) == (3, 3, 0.25, 1.5, 2)
    assert rounds.mean == pytest.approx(0.75)


def test_lockstep_a_round_that_is_not_over_has_no_drift_yet():
    schedule = in_lockstep([((1.0, 2.0), (1.5, 2.5)), ((4.0, 7.5), (5.0,))])
    assert schedule.rounds == (2, 1, 0.5, 0.5, 0.5, 1)
    schedule.ended("gpu1", 1, 8.5)
    assert schedule.rounds == (2, 2, 1.0, 0.75, 1.0, 2)


def test_lockstep_items_that_others_do_for_one_that_left_count_for_its_part():
    schedule = filled("lockstep", ("gpu0", "gpu1"), 4, round_size=2)
    schedule.take("gpu0", 2)
    schedule.take("gpu1", 2)
    schedule.ended("gpu1", 2, 3.0)
    schedule.leave("gpu0")
    schedule.ended("gpu0", 2, 5.0)
    assert schedule.rounds == (1, 1, 2.0, 2.0, 2.0, 1)


@pytest.mark.parametrize("kind", ["dynamic", "round-robin"])
def test_only_lockstep_has_rounds(kind):
    assert filled(kind, SIX, 50).rounds is None


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
    assert stretches(50, 6) == [(0, 9), (9, 18), (18, 26), (26, 34), (34, 42), (42, 50)]
    assert stretches(2, 4) == [(0, 1), (1, 2), (2, 2), (2, 2)]


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
