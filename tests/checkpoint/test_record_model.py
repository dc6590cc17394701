"""The record against a dict, under any sequence of appends, commits, crashes, reopenings, withdrawals and repairs."""

import shutil
import tempfile
from pathlib import Path

import pytest
from fakedisk import FakeDisk
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from jobs import CAPTIONS, FAILED, TEMP, abandon, content, opened, row

import checkpoint

files = st.sampled_from([CAPTIONS, FAILED])
ids = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3) | st.sampled_from("abcdefgh"), unique=True)


class Model(RuleBasedStateMachine):
    """`rows` {id: (file, line)} is what the record holds; `torn`: bytes that a dying write left behind each file."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=TEMP))
        self.out = self.folder / "out"
        self.rows: dict[str, tuple[str, bytes]] = {}
        self.uncommitted: set[str] = set()
        self.fake = FakeDisk()  # it breaks nothing here, and it spares the syncs
        self.installed = self.fake.installed()
        self.installed.__enter__()
        self.record = opened(self.out)

    @rule(file=files, new=ids, text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
    def append(self, file, new, text):
        lines = [row(id, text) for id in new]
        if self.rows.keys() & set(new):
            with pytest.raises(ValueError, match="has a row already"):
                self.record.append(file, lines)
        else:
            self.record.append(file, lines)
            self.rows |= {id: (file, line) for id, line in lines}
            self.uncommitted |= set(new)

    @rule()
    def commit(self):
        self.record.commit()
        self.uncommitted.clear()

    @rule(file=files, wanted=st.none() | ids)
    def withdraw(self, file, wanted):
        gone = [id for id, (place, _) in self.rows.items() if place == file and (wanted is None or id in wanted)]
        assert self.record.withdraw(file, wanted) == len(gone)
        for id in gone:
            del self.rows[id]
        self.uncommitted.clear()

    @rule()
    def close_and_reopen(self):
        self.record.close()
        self.uncommitted.clear()
        self.reopen({CAPTIONS: b"", FAILED: b""})

    @rule(torn=st.fixed_dictionaries({CAPTIONS: st.integers(0, 30), FAILED: st.integers(0, 30)}))
    def crash_and_reopen(self, torn):
        """The process dies in the middle of one more append to each file."""
        abandon(self.record)
        tails = {file: row("never whole")[1][:size] for file, size in torn.items()}
        for file, tail in tails.items():
            with (self.out / file).open("ab") as handle:
                handle.write(tail)
        self.reopen(tails)

    @rule(data=st.data())
    def damage_and_repair(self, data):
        """One byte of one committed row changes."""
        self.record.close()
        self.uncommitted.clear()
        file = data.draw(files)
        if content := bytearray((self.out / file).read_bytes()):
            byte = data.draw(st.integers(0, len(content) - 1))
            content[byte] ^= data.draw(st.integers(1, 255))
            (self.out / file).write_bytes(content)
            with pytest.raises(checkpoint.Damaged):
                opened(self.out)
            checkpoint.repair(self.out)
            ids, start = [id for id, (place, _) in self.rows.items() if place == file], 0
            for id in ids:
                start += len(self.rows[id][1]) + 1
                if start > byte:
                    del self.rows[id]
                    break
        self.reopen({CAPTIONS: b"", FAILED: b""})

    def reopen(self, tails):
        self.record = opened(self.out)
        adopted = {file: sum(self.rows[id][0] == file for id in self.uncommitted) for file in checkpoint.FILES}
        assert self.record.adopted == adopted
        assert self.record.cut == {file: len(tail) for file, tail in tails.items()}
        self.uncommitted.clear()
        assert self.record.check() == []

    @invariant()
    def holds_what_the_model_holds(self):
        found = content(self.out)
        for file in checkpoint.FILES:
            expected = {id: line for id, (place, line) in self.rows.items() if place == file}
            assert found[file] == expected
            assert list(found[file]) == list(expected), "rows keep their order"
            assert self.record.counts[file] == len(expected)
        assert self.record.uncommitted == len(self.uncommitted)
        asked = [*self.rows, "never whole", "nobody"]
        assert self.record.done(asked).tolist() == [True] * len(self.rows) + [False] * 2
        view = checkpoint.read(self.out)
        assert sum(view.counts.values()) == len(self.rows) - len(self.uncommitted)
        assert view.done(asked).tolist() == [id in self.rows and id not in self.uncommitted for id in asked]

    def teardown(self):
        self.record.close()
        self.installed.__exit__(None, None, None)
        shutil.rmtree(self.folder)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
