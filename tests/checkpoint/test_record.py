"""The record's public face, on a disk that works."""

import ast
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from fakedisk import Crash
from jobs import CAPTIONS, FAILED, FINGERPRINT, abandon, content, opened, reopened, row, rows

import checkpoint


def test_rows_come_back_after_closing(out):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a", "b"))
        record.append(FAILED, rows("c"))
        assert record.uncommitted == 3
        record.commit()
        assert record.uncommitted == 0
    with opened(out) as record:
        assert record.counts == {CAPTIONS: 2, FAILED: 1}
        assert record.adopted == record.cut == {CAPTIONS: 0, FAILED: 0}
        assert record.done(["a", "x", "c"]).tolist() == [True, False, True]
    assert content(out)[CAPTIONS] == dict(rows("a", "b"))


def test_done_sees_rows_not_yet_committed(out):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a"))
        done = record.done(["a", "b"])
        assert done.dtype == np.bool_
        assert done.tolist() == [True, False]
        assert record.done([]).tolist() == []


def test_rows_of_a_killed_run_are_adopted(out):
    record = opened(out)
    record.append(CAPTIONS, rows("a", "b"))
    record.commit()
    record.append(CAPTIONS, rows("c"))
    record.append(FAILED, rows("d", "e"))
    abandon(record)
    with opened(out) as record:
        assert record.adopted == {CAPTIONS: 1, FAILED: 2}
        assert record.cut == {CAPTIONS: 0, FAILED: 0}
        assert all(record.done(list("abcde")))


def test_a_torn_row_is_cut_before_the_next_one_is_appended(out):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a"))
    with (out / CAPTIONS).open("ab") as file:
        file.write(row("b")[1][:-5])
    with opened(out) as record:
        assert record.cut == {CAPTIONS: len(row("b")[1]) - 5, FAILED: 0}
        record.append(CAPTIONS, rows("b"))
    assert content(out)[CAPTIONS] == dict(rows("a", "b"))


@pytest.mark.parametrize(
    "tail",
    [
        b"\0" * 5000,
        b"[1]\n",
        b'{"name": "b"}\n',
        b'{"id": 7}\n',
        b'{"id": "b"}\r\n',
        b'{"id": "\xff"}\n',
        b"\n",
        row("a")[1] + b"\n",
        b'{"id": "b"',
        b"{" * 200_000 + b"}\n",
    ],
    ids=["NUL", "list", "no id", "id of another type", "CRLF", "no UTF-8", "empty", "repeated id", "torn", "deep"],
)
def test_a_tail_that_is_no_whole_new_row_is_cut_and_what_follows_it(out, tail):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a"))
    with (out / CAPTIONS).open("ab") as file:
        file.write(tail + row("z")[1] + b"\n")
    with opened(out) as record:
        assert record.adopted[CAPTIONS] == 0
        assert record.cut[CAPTIONS] == len(tail + row("z")[1]) + 1
    assert reopened(out)[CAPTIONS] == dict(rows("a"))


@pytest.mark.parametrize(
    "bad",
    [("b", b'{"id":"c"}'), ("b", b'{"id":\n"b"}'), ("b", b'{"id":"b"}\n'), ("b", b'{"id":"b'), ("b", b"[]"), row("a")],
    ids=["other id", "two lines", "newline", "torn", "list", "known id"],
)
def test_append_refuses_what_opening_would_not_take_and_writes_nothing(out, bad):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a"))
        with pytest.raises(ValueError):
            record.append(FAILED, [*rows("n"), bad])
        record.append(FAILED, rows("b"))
    assert reopened(out) == {CAPTIONS: dict(rows("a")), FAILED: dict(rows("b"))}


def test_append_refuses_an_id_twice_in_one_call(out):
    with opened(out) as record, pytest.raises(ValueError, match="'b' has a row already"):
        record.append(CAPTIONS, rows("a", "b", "c", "b"))


def test_append_refuses_a_row_longer_than_the_index_can_say(out, monkeypatch):
    monkeypatch.setattr("checkpoint.rows.MAX_ROW", 100)
    with opened(out) as record:
        record.append(CAPTIONS, [("a", b'{"id":"a","b":"%s"}' % (b"x" * 82))])
        with pytest.raises(ValueError):
            record.append(CAPTIONS, [("b", b'{"id":"b","b":"%s"}' % (b"x" * 83))])
    assert reopened(out)[CAPTIONS].keys() == {"a"}


@pytest.mark.parametrize("id", ["ä/ö.jpg", "a b#c", "", "\N{SNOWMAN}" * 300, 'quote"d\\'])
def test_any_string_is_an_id(out, id):
    with opened(out) as record:
        record.append(CAPTIONS, rows(id))
    with opened(out) as record:
        assert record.done([id, "\ud800"]).tolist() == [True, False]


def test_a_folder_of_another_job_is_refused_by_the_first_differing_field(out):
    with checkpoint.open(out, {"model": "x", "seed": 1, "lora": {"a": [1, 2]}}) as record:
        record.append(CAPTIONS, rows("a"))
    with pytest.raises(checkpoint.Mismatch) as caught:
        checkpoint.open(out, {"model": "x", "seed": 2, "lora": None})
    assert (caught.value.field, caught.value.old, caught.value.new) == ("seed", 1, 2)
    checkpoint.open(out, {"model": "x", "seed": 1, "lora": {"a": (1, 2)}}).close()


@pytest.mark.parametrize("new, field", [({"a": 1}, "b"), ({"a": 1, "b": None, "c": None}, "c")])
def test_a_missing_field_is_a_difference_even_from_none(out, new, field):
    with checkpoint.open(out, {"a": 1, "b": None}) as record:
        record.append(CAPTIONS, rows("a"))
    with pytest.raises(checkpoint.Mismatch) as caught:
        checkpoint.open(out, new)
    assert caught.value.field == field


@pytest.mark.parametrize("missing", [(), (CAPTIONS,), (CAPTIONS, FAILED)])
def test_a_record_without_a_row_takes_another_fingerprint_before_the_first_row(out, missing):
    checkpoint.open(out, {"prompt": "wrogn"}).close()
    for name in missing:
        (out / name).unlink()
    record = checkpoint.open(out, {"prompt": "right"})
    assert checkpoint.read(out).fingerprint == {"prompt": "right"}
    record.append(CAPTIONS, rows("a"))
    abandon(record)
    with pytest.raises(checkpoint.Mismatch):
        checkpoint.open(out, {"prompt": "wrogn"})
    checkpoint.open(out, {"prompt": "right"}).close()


def test_a_record_whose_rows_were_all_withdrawn_takes_another_fingerprint(out):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a"))
        record.withdraw(CAPTIONS, None)
    checkpoint.open(out, {"model": "other"}).close()
    assert checkpoint.read(out).fingerprint == {"model": "other"}


@pytest.mark.parametrize("file", [CAPTIONS, FAILED])
@pytest.mark.parametrize("tail", [b"{", row("a")[1] + b"\n"], ids=["torn", "whole"])
def test_bytes_beyond_an_empty_commit_are_of_the_job_that_wrote_them(out, file, tail):
    abandon(opened(out))
    (out / file).write_bytes(tail)
    with pytest.raises(checkpoint.Mismatch):
        checkpoint.open(out, {"model": "other"})
    assert (out / file).read_bytes() == tail
    assert checkpoint.read(out).fingerprint == FINGERPRINT


def test_a_crash_while_a_new_fingerprint_is_taken_leaves_one_of_both(folders, fake):
    for number in range(200):
        out = next(folders)
        opened(out).close()
        start = len(fake.calls)
        fake.crash(lambda call, last=start + number: call.number == last)
        try:
            record = checkpoint.open(out, {"model": "other"})
        except Crash:
            fake.restart()
            assert checkpoint.read(out).fingerprint in (FINGERPRINT, {"model": "other"})
            checkpoint.open(out, {"model": "third"}).close()
            assert checkpoint.read(out).fingerprint == {"model": "third"}
            continue
        fake.restart()
        record.close()
        break
    assert number > 5


def test_other_row_files_are_another_job(out):
    opened(out).close()
    with pytest.raises(checkpoint.Mismatch, match="row files"):
        checkpoint.open(out, FINGERPRINT, files=(CAPTIONS,))


def test_a_refused_folder_stays_as_it_was_and_unlocked(out):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a"))
    with (out / CAPTIONS).open("ab") as file:
        file.write(b"torn")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(checkpoint.Mismatch):
        checkpoint.open(out, {"model": "other"})
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not checkpoint.read(out).alive


def test_a_view_names_what_opening_the_record_would_adopt(out):
    record = opened(out)
    record.append(CAPTIONS, rows("a"))
    record.commit()
    record.append(CAPTIONS, rows("b", "c"))
    record.append(FAILED, rows("d"))
    abandon(record)
    with (out / CAPTIONS).open("ab") as file:
        file.write(b'{"id": "e", "capt')
    assert list(checkpoint.read(out).uncommitted()) == ["b", "c", "d"]
    with opened(out) as record:
        assert record.adopted == {CAPTIONS: 2, FAILED: 1}
    assert list(checkpoint.read(out).uncommitted()) == []


def test_a_record_of_a_later_format_is_refused(out, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("checkpoint.state.FORMAT", 2)
        opened(out).close()
    with pytest.raises(checkpoint.Mismatch, match="format version"):
        opened(out)


def test_rows_without_a_record_are_adopted(out):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a", "b"))
        record.append(FAILED, rows("c"))
    shutil.rmtree(out / "checkpoint")
    with (out / CAPTIONS).open("ab") as file:
        file.write(b'{"id": "to')
    with opened(out) as record:
        assert record.adopted == {CAPTIONS: 2, FAILED: 1}
        assert record.cut[CAPTIONS] == 10


def test_without_a_record_no_more_than_a_torn_last_row_is_cut(out):
    out.mkdir()
    text = row("a")[1] + b"\nhello\n" + row("b")[1] + b"\n"
    (out / CAPTIONS).write_bytes(text)
    with pytest.raises(checkpoint.Damaged) as caught:
        opened(out)
    assert (caught.value.file, caught.value.byte) == (out / CAPTIONS, len(row("a")[1]) + 1)
    assert (out / CAPTIONS).read_bytes() == text


def test_withdrawn_rows_are_gone_and_can_be_appended_again(out):
    with opened(out) as record:
        record.append(CAPTIONS, rows(*"abcdef"))
        record.append(FAILED, rows("x", "y"))
        assert record.withdraw(CAPTIONS, iter(["a", "c", "d", "x", "nobody"])) == 3
        assert record.counts == {CAPTIONS: 3, FAILED: 2}
        assert record.done(list("abcdefxy")).tolist() == [False, True, False, False, True, True, True, True]
        record.append(CAPTIONS, rows("c", text="another"))
        assert record.withdraw(FAILED, None) == 2
        assert record.withdraw(FAILED, ["b", "nobody"]) == 0
    found = reopened(out)
    assert found == {CAPTIONS: dict(rows("b", "e", "f") + rows("c", text="another")), FAILED: {}}


def test_reading_needs_no_lock_and_works_on_a_copy(out, tmp_path):
    with opened(out) as record:
        record.append(CAPTIONS, rows("a", "b"))
        record.commit()
        record.append(CAPTIONS, rows("c"))
        shutil.copytree(out, tmp_path / "copy")
        view = checkpoint.read(out)
        assert view.alive
        assert view.counts == {CAPTIONS: 2, FAILED: 0}
        assert view.committed[CAPTIONS].bytes == sum(len(line) + 1 for _, line in rows("a", "b"))
        assert view.fingerprint == FINGERPRINT
        assert view.done(["a", "c"]).tolist() == [True, False]
        copy = checkpoint.read(tmp_path / "copy")
        assert (copy.counts, copy.alive, copy.holder) == (view.counts, False, view.holder)
    after = checkpoint.read(out)
    assert (after.counts[CAPTIONS], after.alive, after.holder) == (3, False, None)


def test_reading_a_folder_without_a_record_says_so(out):
    with pytest.raises(FileNotFoundError, match="no record at"):
        checkpoint.read(out)


@pytest.mark.parametrize("change", ["appended to", "replaced", "removed"])
def test_a_row_file_touched_by_another_program_stops_the_commit(out, change):
    record = opened(out)
    record.append(CAPTIONS, rows("a"))
    record.commit()
    record.append(CAPTIONS, rows("b"))
    path = out / CAPTIONS
    if change == "appended to":
        with path.open("ab") as file:
            file.write(b"x")
    else:
        data = path.read_bytes()
        path.unlink()
        if change == "replaced":
            path.write_bytes(data)
    with pytest.raises(checkpoint.Damaged, match="something else"):
        record.commit()
    with pytest.raises(checkpoint.Broken):
        record.append(CAPTIONS, rows("c"))
    record.close()


@pytest.mark.parametrize("size", [0, 5, 1000])
@pytest.mark.parametrize("committed", [True, False])
def test_a_row_file_cut_or_grown_in_a_run_stops_the_next_append(out, size, committed):
    """`: > captions.jsonl`: a write at the old offset would restore the size, and the commit would see nothing."""
    record = opened(out)
    record.append(CAPTIONS, rows("a", "b"))
    if committed:
        record.commit()
    os.truncate(out / CAPTIONS, size)
    with pytest.raises(checkpoint.Damaged, match="something else") as caught:
        record.append(CAPTIONS, rows("c"))
    assert caught.value.file == out / CAPTIONS
    assert (out / CAPTIONS).stat().st_size == size
    with pytest.raises(checkpoint.Broken):
        record.commit()
    record.close()
    if committed and size < 1000:
        with pytest.raises(checkpoint.Damaged):
            opened(out)


def test_a_closed_record_takes_nothing_and_can_be_closed_again(out):
    record = opened(out)
    record.close()
    with pytest.raises(checkpoint.Broken, match="it was closed"):
        record.append(CAPTIONS, rows("a"))
    with pytest.raises(checkpoint.Broken):
        record.commit()
    record.close()


def test_leftovers_of_a_crash_are_removed(out):
    opened(out).close()
    for name in (".checkpoint.json.tmp", "rows.idx.new", "captions.jsonl.new"):
        (out / "checkpoint" / name).write_bytes(b"half")
    opened(out).close()
    assert {path.name for path in (out / "checkpoint").iterdir()} == {"checkpoint.json", "rows.idx", "lock"}


def test_a_small_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "run.json"
    checkpoint.durable.write(path, b"one" * 1000)
    checkpoint.durable.write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_the_package_imports_no_more_than_it_says():
    allowed = {*sys.stdlib_module_names, "numpy", "orjson"}
    for path in Path(checkpoint.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            assert {name.split(".")[0] for name in names} <= allowed, path


def test_two_records_of_one_folder_know_nothing_of_each_other(out):
    files, folder = ("scores.jsonl", "failed_scores.jsonl"), "scores"
    with opened(out) as record, checkpoint.open(out, {"scorer": "x"}, files, folder) as second:
        record.append(CAPTIONS, rows("a", "b"))
        second.append("scores.jsonl", rows("a"))
        second.commit()
        assert second.withdraw("scores.jsonl", ["a"]) == 1
        second.append("failed_scores.jsonl", rows("a"))
    assert checkpoint.read(out).counts == {CAPTIONS: 2, FAILED: 0}
    assert checkpoint.read(out, folder).counts == {"scores.jsonl": 0, "failed_scores.jsonl": 1}
    assert checkpoint.check(out) == checkpoint.check(out, folder) == []
    (out / "scores.jsonl").write_bytes(b"{")
    assert checkpoint.check(out) == [] and len(checkpoint.check(out, folder)) == 1
    assert checkpoint.repair(out) == [] and checkpoint.repair(out, files, folder)
    assert checkpoint.check(out, folder) == []
