"""The process dies, or the power goes, at each instant of a commit, an opening, a withdrawal and a repair.

A kill keeps every write that was made; a power cut may take all that was not synced. In each test both happen.
"""

import shutil

import pytest
from fakedisk import Crash
from jobs import CAPTIONS, FAILED, abandon, content, opened, reopened, row, rows

import checkpoint

COMMITTED = {CAPTIONS: dict(rows("a", "b")), FAILED: dict(rows("c"))}
APPENDED = {CAPTIONS: dict(rows("a", "b", "d", "e")), FAILED: dict(rows("c", "f"))}
NOTHING, EVERYTHING = (lambda n: 0), (lambda n: 1)  # of what was not synced is left


def committed(out):
    record = opened(out)
    record.append(CAPTIONS, rows("a", "b"))
    record.append(FAILED, rows("c"))
    record.commit()
    return record


def appended(out):
    record = committed(out)
    record.append(CAPTIONS, rows("d", "e"))
    record.append(FAILED, rows("f"))
    return record


def is_call(kind, file):
    return lambda call: (call.kind, call.file) == (kind, file)


def images(fake, out, tmp_path):
    """What a power cut leaves at the least and at the most, and what a kill leaves."""
    for name, choose in (("least", NOTHING), ("most", EVERYTHING)):
        fake.cut_power(out, tmp_path / name, choose)
    fake.restart()
    shutil.copytree(out, tmp_path / "killed")
    return [tmp_path / name for name in ("least", "most", "killed")]


# Commit: rows synced, index appended, index synced, checkpoint.json replaced ------------------------------------------


def crash_in_commit(fake, out, tmp_path, at):
    record = appended(out)
    fake.crash(at)
    with pytest.raises(Crash):
        record.commit()
    abandon(record)
    least, most, killed = images(fake, out, tmp_path)
    assert reopened(killed) == APPENDED
    assert reopened(most) == APPENDED
    return reopened(least)


def test_crash_before_row_sync(fake, out, tmp_path):
    assert crash_in_commit(fake, out, tmp_path, is_call("sync", CAPTIONS)) == COMMITTED


def test_crash_after_sync_of_one_row_file_before_the_other(fake, out, tmp_path):
    expected = {CAPTIONS: APPENDED[CAPTIONS], FAILED: COMMITTED[FAILED]}
    assert crash_in_commit(fake, out, tmp_path, is_call("sync", FAILED)) == expected


def test_crash_after_row_sync_before_index_append(fake, out, tmp_path):
    assert crash_in_commit(fake, out, tmp_path, is_call("write", "rows.idx")) == APPENDED


def test_crash_after_index_append_before_index_sync(fake, out, tmp_path):
    assert crash_in_commit(fake, out, tmp_path, is_call("sync", "rows.idx")) == APPENDED


def test_crash_after_index_sync_before_new_checkpoint_json(fake, out, tmp_path):
    assert crash_in_commit(fake, out, tmp_path, is_call("open", ".checkpoint.json.tmp")) == APPENDED


def test_crash_before_writing_checkpoint_json(fake, out, tmp_path):
    assert crash_in_commit(fake, out, tmp_path, is_call("write", ".checkpoint.json.tmp")) == APPENDED


def test_crash_after_writing_checkpoint_json_before_its_sync(fake, out, tmp_path):
    assert crash_in_commit(fake, out, tmp_path, is_call("sync", ".checkpoint.json.tmp")) == APPENDED


def test_crash_after_sync_of_checkpoint_json_before_rename(fake, out, tmp_path):
    assert crash_in_commit(fake, out, tmp_path, is_call("replace", "checkpoint.json")) == APPENDED


def test_crash_after_rename_before_sync_of_the_folder(fake, out, tmp_path):
    assert crash_in_commit(fake, out, tmp_path, is_call("sync_folder", "checkpoint")) == APPENDED


def test_a_commit_has_no_other_instants(fake, out):
    record = appended(out)
    before = len(fake.calls)
    record.commit()
    assert [(call.kind, call.file) for call in fake.calls[before:]] == [
        ("sync", CAPTIONS),
        ("sync", FAILED),
        ("write", "rows.idx"),
        ("sync", "rows.idx"),
        ("open", ".checkpoint.json.tmp"),
        ("write", ".checkpoint.json.tmp"),
        ("sync", ".checkpoint.json.tmp"),
        ("replace", "checkpoint.json"),
        ("sync_folder", "checkpoint"),
    ]
    record.close()


# Opening: a torn tail is cut, whole rows are adopted ------------------------------------------------------------------


def crash_in_opening(fake, out, tmp_path, at):
    """Two whole rows and a torn one beyond the last commit; the crash comes when they are picked up."""
    abandon(appended(out))
    with (out / CAPTIONS).open("ab") as file:
        file.write(row("g")[1][:-7])
    fake.crash(at)
    with pytest.raises(Crash):
        opened(out)
    least, most, killed = images(fake, out, tmp_path)
    assert reopened(killed) == APPENDED
    assert reopened(most) == APPENDED
    return reopened(least)


def test_crash_in_opening_before_adopted_rows_are_written_again(fake, out, tmp_path):
    assert crash_in_opening(fake, out, tmp_path, is_call("write", CAPTIONS)) == COMMITTED


def test_crash_in_opening_before_the_torn_row_is_cut(fake, out, tmp_path):
    assert crash_in_opening(fake, out, tmp_path, is_call("truncate", CAPTIONS)) == COMMITTED


def test_crash_in_opening_after_the_cut_before_its_sync(fake, out, tmp_path):
    assert crash_in_opening(fake, out, tmp_path, is_call("sync", CAPTIONS)) == COMMITTED


def test_crash_in_opening_between_the_row_files(fake, out, tmp_path):
    expected = {CAPTIONS: APPENDED[CAPTIONS], FAILED: COMMITTED[FAILED]}
    assert crash_in_opening(fake, out, tmp_path, is_call("write", FAILED)) == expected


def test_crash_in_opening_after_adopting_before_its_commit(fake, out, tmp_path):
    expected = {CAPTIONS: APPENDED[CAPTIONS], FAILED: COMMITTED[FAILED]}
    assert crash_in_opening(fake, out, tmp_path, is_call("sync", FAILED)) == expected


# Withdrawal: new files prepared, intent committed, files renamed, commit ----------------------------------------------

LEFT = {CAPTIONS: dict(rows("b", "e")), FAILED: dict(rows("c", "f"))}


def crash_in_withdrawal(fake, out, tmp_path, at):
    record = appended(out)
    record.commit()
    fake.crash(at)
    with pytest.raises(Crash):
        record.withdraw(CAPTIONS, ["a", "d"])
    abandon(record)
    after = images(fake, out, tmp_path)
    seen = [(view.counts, view.done(list("abcdef")).tolist()) for view in map(checkpoint.read, after)]
    found = [reopened(image) for image in after]
    for (counts, done), files in zip(seen, found):  # one who only looks sees what the next run will find
        assert counts == {name: len(file) for name, file in files.items()}
        assert done == [id in files[CAPTIONS] or id in files[FAILED] for id in "abcdef"]
    return found


def nth_replace(file, n):
    seen = []

    def at(call):
        if (call.kind, call.file) == ("replace", file):
            seen.append(call)
        return len(seen) == n

    return at


def test_crash_before_the_new_rows_are_synced(fake, out, tmp_path):
    assert crash_in_withdrawal(fake, out, tmp_path, is_call("sync", "captions.jsonl.new")) == [APPENDED] * 3


def test_crash_before_the_new_index_is_synced(fake, out, tmp_path):
    assert crash_in_withdrawal(fake, out, tmp_path, is_call("sync", "rows.idx.new")) == [APPENDED] * 3


def test_crash_after_the_new_files_are_written_before_the_intent(fake, out, tmp_path):
    assert crash_in_withdrawal(fake, out, tmp_path, nth_replace("checkpoint.json", 1)) == [APPENDED] * 3


def test_crash_after_the_intent_before_the_rows_are_replaced(fake, out, tmp_path):
    assert crash_in_withdrawal(fake, out, tmp_path, is_call("replace", CAPTIONS)) == [LEFT] * 3


def test_crash_after_the_rows_are_replaced_before_the_index_is(fake, out, tmp_path):
    assert crash_in_withdrawal(fake, out, tmp_path, is_call("replace", "rows.idx")) == [LEFT] * 3


def test_crash_after_both_are_replaced_before_the_sync_of_their_folders(fake, out, tmp_path):
    assert crash_in_withdrawal(fake, out, tmp_path, is_call("sync_folder", out.name)) == [LEFT] * 3


def test_crash_after_both_are_replaced_before_the_last_commit(fake, out, tmp_path):
    assert crash_in_withdrawal(fake, out, tmp_path, nth_replace("checkpoint.json", 2)) == [LEFT] * 3


# All instants of all of them, also those nobody thought of ------------------------------------------------------------


def every_crash(fake, folders, prepare, act, torn=None):
    """For each call that `act` makes on what `prepare` laid out: the folder as a crash before that call left it."""
    died, number = True, 0
    while died:
        out = next(folders)
        subject = prepare(out)
        last = len(fake.calls) + number
        fake.crash(lambda call, last=last: call.number == last, torn)
        try:
            act(subject)
        except Crash:
            pass
        died = fake.dead
        fake.restart()
        if isinstance(subject, checkpoint.Record):
            abandon(subject)
        if died:
            yield out
        number += 1
    assert number > 5


@pytest.mark.parametrize("torn", [None, 0, 1, 70])
def test_first_opening_survives_a_crash_before_any_call(fake, folders, torn):
    for out in every_crash(fake, folders, lambda out: out, lambda out: opened(out).close(), torn):
        assert reopened(out) == {CAPTIONS: {}, FAILED: {}}


@pytest.mark.parametrize("torn", [None, 1, 70])
def test_a_whole_run_survives_a_crash_before_any_call(fake, folders, torn):
    returned = []

    def run(out):
        returned.clear()
        record = opened(out)
        try:
            for id in "abcd":
                record.append(CAPTIONS, rows(id, id + id))
                returned.extend([id, id + id])
                if id == "b":
                    record.commit()
            record.close()
        except Crash:
            abandon(record)
            raise

    for out in every_crash(fake, folders, lambda out: out, run, torn):
        found = reopened(out)[CAPTIONS]
        assert set(returned) <= found.keys()
        assert found.items() <= dict(rows(*"abcd", "aa", "bb", "cc", "dd")).items()


@pytest.mark.parametrize("torn", [None, 1, 70])
def test_withdrawal_survives_a_crash_before_any_call(fake, folders, torn):
    for out in every_crash(fake, folders, appended, lambda record: record.withdraw(CAPTIONS, ["a", "d"]), torn):
        assert reopened(out) in (APPENDED, LEFT)


@pytest.mark.parametrize("torn", [None, 1, 70])
def test_opening_after_a_crash_in_a_withdrawal_survives_one_too(fake, folders, torn):
    def interrupted(out):
        record = appended(out)
        fake.crash(is_call("replace", CAPTIONS))
        with pytest.raises(Crash):
            record.withdraw(CAPTIONS, ["a", "d"])
        abandon(record)
        fake.restart()
        return out

    for out in every_crash(fake, folders, interrupted, lambda out: opened(out).close(), torn):
        assert reopened(out) == LEFT


@pytest.mark.parametrize("torn", [None, 1, 70])
def test_repair_survives_a_crash_before_any_call(fake, folders, torn):
    def damaged(out):
        appended(out).close()
        data = bytearray((out / CAPTIONS).read_bytes())
        data[5] ^= 1
        (out / CAPTIONS).write_bytes(data)
        return out

    expected = {CAPTIONS: dict(rows("b", "d", "e")), FAILED: dict(rows("c", "f"))}
    for out in every_crash(fake, folders, damaged, checkpoint.repair, torn):
        checkpoint.repair(out)
        assert checkpoint.check(out) == []
        assert content(out) == expected
