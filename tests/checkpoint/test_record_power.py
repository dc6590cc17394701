"""Power cuts at any instant of a run, with any part of what was not synced lost, torn or reordered."""

import contextlib
import tempfile
from pathlib import Path

from fakedisk import Crash, FakeDisk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobs import CAPTIONS, FAILED, TEMP, abandon, opened, reopened, row

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([CAPTIONS, FAILED]), st.integers(1, 4)),
        st.tuples(st.just("commit")),
        st.tuples(st.just("withdraw"), st.sampled_from([CAPTIONS, FAILED]), st.sets(st.integers(0, 12), max_size=5)),
    ),
    min_size=1,
    max_size=10,
)


class Run:
    """What a run knows of its rows, id by id: {id: (row file, line)}."""

    def __init__(self, safe):
        self.safe = safe  # committed: must be there after any power cut
        self.loose = {}  # appended only: may be there
        self.leaving, self.together = {}, set()  # being withdrawn; of these the committed ones: all there, or all gone

    def go(self, record, steps, numbers):
        for step in steps:
            if step[0] == "append":
                new = {str(number): step[1] for number, _ in zip(numbers, range(step[2]))}
                lines = [row(id, text=f"written at {len(self.safe)}") for id in new]
                self.loose |= {id: (new[id], line) for id, line in lines}
                record.append(step[1], lines)
            elif step[0] == "commit":
                record.commit()
                self.committed()
            else:
                self.withdraw(record, step[1], {str(number) for number in step[2]})

    def withdraw(self, record, file, ids):
        known = self.safe | self.loose
        self.leaving = {id: known[id] for id in ids if id in known and known[id][0] == file}
        self.together = {id for id in self.leaving if self.safe.pop(id, None)}
        self.loose = {id: place for id, place in self.loose.items() if id not in self.leaving}
        assert record.withdraw(file, ids) == len(self.leaving)
        self.leaving, self.together = {}, set()
        self.committed()

    def committed(self):
        self.safe |= self.loose
        self.loose = {}

    def check(self, found):
        there = {id: (file, line) for file in found for id, line in found[file].items()}
        assert self.safe.items() <= there.items(), "a committed row is lost"
        rest = {id: place for id, place in there.items() if id not in self.safe}
        assert rest.items() <= (self.loose | self.leaving).items(), "a row that nobody wrote"
        assert self.together & there.keys() in (set(), self.together), "half withdrawn"
        return there


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(runs=st.lists(st.tuples(steps, st.integers(0, 60)), min_size=1, max_size=3), data=st.data())
def test_no_committed_row_is_lost_and_none_appears_twice(runs, data):
    """Several runs one after the other; the power goes in each, at a call that Hypothesis chooses."""
    numbers = iter(range(10_000))
    with tempfile.TemporaryDirectory(dir=TEMP) as folder:
        out, safe = Path(folder, "0"), {}
        out.mkdir()
        for number, (todo, calls) in enumerate(runs, start=1):
            run, fake, record = Run(safe), FakeDisk(), None
            with fake.installed():
                fake.crash(lambda call, last=calls: call.number == last)
                with contextlib.suppress(Crash):
                    record = opened(out)
                    run.go(record, todo, numbers)
                after = Path(folder, str(number))
                fake.cut_power(out, after, lambda n: data.draw(st.integers(0, n - 1)))
                fake.restart()
                if record:
                    abandon(record)
            out = after
            safe = run.check(reopened(out))
