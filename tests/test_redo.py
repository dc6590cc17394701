"""Redo: the rows named by a flag or in a file are taken out, all others stay, and typing it again does no harm."""

import orjson
import pytest

import checkpoint
from caption.engine import OVERFLOW
from caption.errors import UsageError
from caption.guard import FLAGS, check
from caption.outputs.rows import CAPTIONS, FAILED
from caption.precision import AFTER_FP16
from caption.redo import is_under_way, withdraw_rows
from tests.runs import broken, captions, empty_pictures, kill_group, run, start, wait_for_rows


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def record(out):
    with checkpoint.open(out, {}) as record:
        flags = {"a": [], "b": ["empty"], "c": ["cut-off"], "d": ["non-finite", "cut-off"], "cut-off": []}
        rows = [(id, orjson.dumps({"id": id, "caption": "empty", "flags": marks})) for id, marks in flags.items()]
        record.append(CAPTIONS, rows)
        record.append(FAILED, [(id, orjson.dumps({"id": id, "error": "TooLarge"})) for id in ("x", "y")])
        record.commit()
        yield record


def there(record):
    ids = ["a", "b", "c", "d", "cut-off", "x", "y"]
    return {id for id, done in zip(ids, record.done(ids)) if done}


def gone(record, before):
    return before - there(record)


def test_a_flag_takes_out_the_captions_that_have_it_and_again_none(record, out):
    before = there(record)
    assert withdraw_rows(record, out, False, "cut-off") == 2
    assert gone(record, before) == {"c", "d"}
    assert withdraw_rows(record, out, False, "cut-off") == 0, "as after a kill -9, with the same command"
    assert gone(record, before) == {"c", "d"}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_known_flag_that_no_caption_has_is_no_error(out, flag):
    with checkpoint.open(out, {}) as record:
        assert withdraw_rows(record, out, False, flag) == 0


@pytest.mark.parametrize(
    ("word", "remedy"),
    [("cutoff", "cut-off is the nearest"), ("Empty", "empty is the nearest"),
     ("nonfinite", "non-finite is the nearest"), ("ids.txt", "empty, pad-flood, loop"),
     ("", "empty, pad-flood, loop"), ("x" * 5000, "no such file"), ("nul\0", "no such flag"),
     (".", "no such file")],
)  # fmt: skip
def test_a_word_that_is_neither_flag_nor_file_is_wrong_use_and_changes_nothing(record, out, word, remedy):
    before = there(record)
    with pytest.raises(UsageError, match=remedy):
        withdraw_rows(record, out, True, word)
    assert there(record) == before


def test_flags_are_all_that_anything_sets():
    assert {*check(" ", "stop", "x"), *check("A cat", "length", "x")} < set(FLAGS)
    assert {*OVERFLOW, AFTER_FP16} < set(FLAGS)


@pytest.mark.parametrize(
    "text",
    [b"a\nx\n", b"a\nx", b"\xef\xbb\xbfa\r\nx\r\n", b"\n\na\n\nx\na\n"],
    ids=["plain", "no newline at the end", "Windows", "gaps and twice the same"],
)
def test_a_file_takes_out_the_rows_of_its_ids(record, out, tmp_path, text):
    (tmp_path / "ids.txt").write_bytes(text)
    before, said = there(record), []
    assert withdraw_rows(record, out, False, str(tmp_path / "ids.txt"), said.append) == 2
    assert gone(record, before) == {"a", "x"} and said == []


@pytest.mark.parametrize("id", ["two\u2028lines", "a\x0bb", "a\x1cb", "a\x85b", "a\rb", " a ", "ä"])
def test_an_id_may_hold_what_other_tools_take_for_the_end_of_a_line(record, out, tmp_path, id):
    record.append(CAPTIONS, [(id, orjson.dumps({"id": id, "flags": []}))])
    (tmp_path / "ids.txt").write_bytes(f"{id}\n".encode())
    before = there(record)
    assert withdraw_rows(record, out, False, str(tmp_path / "ids.txt")) == 1
    assert not record.done([id])[0] and there(record) == before


def test_ids_without_a_row_are_counted(record, out, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("a\nnobody\na\n")
    said = []
    assert withdraw_rows(record, out, False, str(tmp_path / "ids.txt"), said.append) == 1
    assert len(said) == 1 and said[0].startswith("1 of the 2 ids to do again has no row")
    assert withdraw_rows(record, out, False, str(tmp_path / "ids.txt")) == 0
    assert "2 of the 2 ids to do again have no row" in capsys.readouterr().out


def test_a_failed_row_that_is_also_in_the_file_has_a_row(record, out, tmp_path):
    (tmp_path / "ids.txt").write_text("x\n")
    before, said = there(record), []
    assert withdraw_rows(record, out, True, str(tmp_path / "ids.txt"), said.append) == 2
    assert gone(record, before) == {"x", "y"} and said == []


def test_a_file_that_is_no_utf8_is_wrong_use_and_changes_nothing(record, out, tmp_path):
    (tmp_path / "ids.txt").write_bytes(b"a\n\xff\n")
    before = there(record)
    with pytest.raises(UsageError, match="UTF-8"):
        withdraw_rows(record, out, True, str(tmp_path / "ids.txt"))
    assert there(record) == before


def runs(out, *entries):
    """run.json with an entry (what was to be done again, exit code) for each; None for one that was killed."""
    entries = [{"settings": {"redo": redo}} | ({} if code is None else {"exit_code": code}) for redo, code in entries]
    (out / "run.json").write_bytes(orjson.dumps({"fingerprint": {}, "runs": entries}))


@pytest.mark.parametrize(
    ("entries", "under_way"),
    [([], False), ([(None, 0)], False), ([("loop", None)], True), ([("loop", 130)], True), ([("loop", 0)], False),
     ([("loop", 3)], False), ([("empty", None)], False), ([("loop", None), (None, 143)], True),
     ([("loop", None), (None, 0)], False), ([("loop", 0), (None, None)], False)],
)  # fmt: skip
def test_a_flag_is_under_way_from_its_run_until_a_run_that_came_to_the_end(out, entries, under_way):
    runs(out, *entries)
    assert is_under_way(out, "loop") is under_way
    assert not is_under_way(out, None) and not is_under_way(out, "ids.txt")


def test_without_a_run_nothing_is_under_way(out):
    assert not is_under_way(out, "loop")


def test_the_same_command_after_a_kill_does_not_take_out_what_was_done_again_and_has_the_flag_again(tmp_path):
    """With captions that are cut each time."""
    ids, out = empty_pictures(tmp_path / "in", 60), tmp_path / "out"
    command = (tmp_path / "in", "--output", out, "--model", "null:15", "--batch-size", 2)
    assert run(*command, fault="cut off").returncode == 0
    process = start(*command, "--redo", "cut-off", **broken("cut off"))
    assert "60 rows are taken out" in process.stdout.readline()
    wait_for_rows(out, 20)
    kill_group(process)
    fresh = (out / "captions.jsonl").read_bytes()
    fresh = fresh[: fresh.rfind(b"\n") + 1]
    again = run(*command, "--redo", "cut-off", fault="cut off")
    assert again.returncode == 0, again.stderr
    assert (out / "captions.jsonl").read_bytes().startswith(fresh)
    assert sorted(captions(out)) == ids
    once_more = run(*command, "--redo", "cut-off", fault="cut off")
    assert "60 rows are taken out" in once_more.stdout
