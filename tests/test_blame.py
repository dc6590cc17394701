"""Whose fault the ends of workers are: whatever dies when, good images get their captions and are charged nothing."""

import random

import pytest

from caption.crew import FRUITLESS_DEATHS, Died, GivenUp
from caption.errors import NoWorkerLeft
from caption.messages import Batch, Captioned, Started
from tests.test_dispatch import Desk, result

SLOTS = 8  # of Desk's workers


class Engine:
    """What a worker does with its batches, as caption/worker.py: what must run by itself goes before all else."""

    def __init__(self):
        self.batches, self.inside = [], []  # [alone, [(ref, item)]]; [(ref, item)]

    def receive(self, batch):
        self.batches.append((batch.alone, [((batch.lease, place), item) for place, item in enumerate(batch.items)]))

    def admit(self):
        """What goes in now."""
        group = next((one for one in self.batches if one[0]), None)
        entering = []
        if group and not self.inside:
            self.batches.remove(group)
            entering = group[1]
        while not group and self.batches and len(self.inside) + len(entering) < SLOTS:
            entering.append(self.batches[0][1].pop(0))
            if not self.batches[0][1]:
                self.batches.pop(0)
        self.inside += entering
        return [ref for ref, _ in entering]


class Run:
    """A run of Desk's dispatcher, in turns.

    Args:
        poison: indices of the images that end each worker that has them inside, sooner or later.
        kills: how likely it is, a turn and worker, that somebody kills it, which is nobody's fault.
        broken: the number of a worker that ends with whatever it has inside.
    """

    def __init__(self, seed, count, workers, poison, kills, broken=None):
        self.chance, self.poison, self.kills = random.Random(seed), poison, kills
        self.desk, self.broken = Desk(count, workers), broken
        self.members = self.desk.crew.members
        self.engines = {member.name: Engine() for member in self.members}
        self.read = dict.fromkeys(self.engines, 0)  # of the messages that were sent to it
        self.endings = []

    def go(self):
        for _ in range(5000):
            if not self.desk.dispatcher.busy:
                return self.endings
            for member in self.members:
                if member.state == "pausing":
                    member.state = "ready"
            self.desk.dispatcher.hand_out()
            for number in self.chance.sample(range(len(self.members)), len(self.members)):
                if not self.members[number].gone:
                    self.turn(number, self.members[number].name)
        raise AssertionError("it does not come to its end")

    def turn(self, number, name):
        engine, sent = self.engines[name], self.desk.crew.sent[name]
        for batch in sent[self.read[name] :]:
            if isinstance(batch, Batch):
                engine.receive(batch)
        self.read[name] = len(sent)
        if entering := engine.admit():
            self.hear(number, Started(tuple(entering)))
        lethal = {ref for ref, item in engine.inside if item.index in self.poison}
        if number == self.broken and engine.inside:
            return self.die(number, blameless=False)
        if lethal and self.chance.random() < 0.5:  # else some of its neighbours come to their end before
            return self.die(number, blameless=False)
        ended = {ref for ref, _ in engine.inside if ref not in lethal and self.chance.random() < 0.4}
        engine.inside = [one for one in engine.inside if one[0] not in ended]
        if ended:
            self.hear(number, Captioned(tuple(map(result, sorted(ended)))))
        if self.chance.random() < self.kills:
            self.die(number, blameless=True)

    def die(self, number, blameless):
        """As Crew counts it."""
        member = self.members[number]
        member._fruitless += not blameless
        final = member._fruitless >= FRUITLESS_DEATHS
        member.state = "gone" if final else "pausing"
        self.engines[member.name], self.read[member.name] = Engine(), len(self.desk.crew.sent[member.name])
        self.desk.crew.working = any(not one.gone for one in self.members)
        self.hear(number, Died("its process crashed", final, blameless))
        if final:
            self.hear(number, GivenUp("its process crashed", None))

    def hear(self, number, *messages):
        self.endings += self.desk.hear(number, *messages)


def assert_blamed_rightly(endings, poison):
    assert len({ending.item.index for ending in endings}) == len(endings), "each ends once"
    for ending in endings:
        if ending.item.index in poison:
            assert (ending.result, ending.error) == (None, "WorkerDied")
            assert len(ending.item.retries) == 3, "--max-retries"
        else:
            assert ending.result is not None and ending.item.retries == ()


@pytest.mark.parametrize("seed", range(100))
def test_all_good_images_are_captioned_and_charged_nothing_whatever_ends_their_workers(seed):
    chance = random.Random(seed)
    count = chance.randint(20, 120)
    poison = set(chance.sample(range(count), chance.choice([0, 1, 2, 3, count // 12])))
    endings = Run(seed, count, chance.randint(1, 4), poison, chance.choice([0.0, 0.02, 0.1])).go()
    assert len(endings) == count
    assert_blamed_rightly(endings, poison)


@pytest.mark.parametrize("seed", range(60))
def test_a_seat_that_ends_with_whatever_it_gets_costs_no_good_image_a_try(seed):
    chance = random.Random(seed)
    count, workers = chance.randint(1, 120), chance.randint(2, 4)
    poison = set(chance.sample(range(count), chance.choice([0, 0, min(count, 2)])))
    run = Run(seed, count, workers, poison, chance.choice([0.0, 0.05]), broken=seed % workers)
    assert len(run.go()) == count
    assert_blamed_rightly(run.endings, poison)


@pytest.mark.parametrize("seed", range(20))
def test_where_a_third_of_the_images_end_their_workers_a_run_may_end_early_but_blames_no_other(seed):
    poison = set(random.Random(seed).sample(range(120), 40))
    run = Run(seed, 120, 1 + seed % 3, poison, 0.02)
    try:
        run.go()
    except NoWorkerLeft:
        assert all(member.gone for member in run.members)
    assert len(run.endings) > 60
    assert_blamed_rightly(run.endings, poison)
