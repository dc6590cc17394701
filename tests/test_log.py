"""The log: times and names of workers, added to by every run, and never a reason for one to end."""

import json
import logging
import os
import re
from pathlib import Path

import pytest

from caption.console import complain, say
from caption.errors import OutputError
from caption.log import LOG, log_into, note
from tests.runs import captions, empty_pictures, run

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_a_line_has_time_level_and_worker(tmp_path, capsys):
    path = tmp_path / "new folder" / "log"
    with log_into(path, "text"):
        note("ready", "gpu0")
        note("a.jpg failed", "gpu1", logging.WARNING)
        say("Finished.")
        complain("caption: wrong.")
    note("after its end")
    lines = path.read_text().splitlines()
    assert [re.sub(TIME, "TIME", line) for line in lines] == [
        "TIME INFO    gpu0   ready",
        "TIME WARNING gpu1   a.jpg failed",
        "TIME INFO    run    Finished.",
        "TIME ERROR   run    caption: wrong.",
    ]


def test_json_lines_have_the_same_and_figures(tmp_path):
    with log_into(tmp_path / "log", "json"):
        note("half", images=5, total=10)
        note('"a\n\udc80"', "gpu0")
    first, second = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert re.fullmatch(TIME, first.pop("time")) and second.pop("time")
    assert first == {"level": "info", "worker": None, "message": "half", "images": 5, "total": 10}
    assert second == {"level": "info", "worker": "gpu0", "message": '"a\n\\udc80"'}


def test_a_file_name_makes_no_second_line_and_moves_no_cursor(tmp_path):
    with log_into(tmp_path / "log", "text"):
        note("a\nb\x1b[2J.jpg failed")
    [line] = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(r"a\nb\x1b[2J.jpg failed")


def test_a_later_run_adds_to_it_and_a_torn_line_is_not_glued_to(tmp_path):
    path = tmp_path / "log"
    path.write_text("first\ntorn by a power c")
    with log_into(path, "text"):
        note("second run")
    assert path.read_text().splitlines()[:2] == ["first", "torn by a power c"]
    assert path.read_text().endswith("second run\n")


def test_a_log_that_was_moved_away_is_begun_anew(tmp_path):
    path = tmp_path / "log"
    with log_into(path, "text"):
        note("before")
        path.rename(tmp_path / "log.1")
        note("after")
    assert path.read_text().endswith("after\n") and "before" in (tmp_path / "log.1").read_text()


def test_a_full_disk_costs_lines_and_nothing_else(capsys):
    with log_into(Path("/dev/full"), "text"):
        note("lost")
        say("heard")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("heard\n", "")


def test_a_log_whose_folder_is_taken_away_costs_lines_and_is_begun_anew_when_the_folder_is_back(tmp_path):
    path = tmp_path / "mount" / "log"
    with log_into(path, "text"):
        note("before")
        path.unlink()
        path.parent.rmdir()
        note("lost")
        path.parent.mkdir()
        note("after")
    assert path.read_text().endswith("after\n") and "lost" not in path.read_text()


def test_a_pipe_can_be_the_log_as_standard_error_of_a_container_is():
    reader, writer = os.pipe()
    with log_into(Path(f"/dev/fd/{writer}"), "text"):
        note("ready", "gpu0")
    os.close(writer)
    with open(reader) as lines:
        assert lines.read().endswith("INFO    gpu0   ready\n")


def test_a_log_that_can_not_be_opened_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    before = list(LOG.handlers)
    problem = r"can't write the log file .*: choose another --log-file"
    with pytest.raises(OutputError, match=problem), log_into(tmp_path / "file" / "log", "text"):
        pass
    assert LOG.handlers == before


def test_an_error_that_ends_a_run_is_its_last_line(tmp_path):
    with pytest.raises(RuntimeError), log_into(tmp_path / "log", "text"):
        raise RuntimeError("no worker can go on")
    assert (tmp_path / "log").read_text().endswith("ERROR   run    ended by an error: no worker can go on\n")


def test_two_runs_tell_their_begin_their_workers_their_failures_and_their_end(tmp_path):
    table, out = tmp_path / "in.jsonl", tmp_path / "out"
    empty_pictures(tmp_path, 3)
    table.write_text('{"image":"000000.jpg"}\n{"image":"000001.jpg"}\n{"image":"000002.jpg"}\n')
    for limit in (1, 3):
        done = run(table, "--output", out, "--model", "null", "--limit", limit, "--log-format", "json")
        assert done.returncode == 0, done.stderr
    assert len(captions(out)) == 3
    lines = [json.loads(line) for line in (out / "run.log").read_text().splitlines()]
    messages = [line["message"] for line in lines]
    assert [text.split(",")[0] for text in messages if "into this folder" in text] == [
        "run 1 into this folder", "run 2 into this folder",
    ]  # fmt: skip
    assert {line["worker"] for line in lines} == {None, "cpu0"}
    assert sum(text.startswith("Finished: ") for text in messages) == 2
    last = [line for line in lines if "images" in line][-1]
    assert (last["images"], last["total"], last["failed"]) == (3, 3, 0)


def test_a_further_try_and_a_failed_image_stand_in_a_log_elsewhere(tmp_path):
    empty_pictures(tmp_path / "in", 5, prefix="poison")
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere.log"
    done = run(
        tmp_path / "in", "--output", out, "--model", "null", "--log-file", elsewhere, "--max-retries", 1,
        fault="error",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert not (out / "run.log").exists()
    text = elsewhere.read_text()
    for name in ("poison000000.jpg", "poison000004.jpg"):
        assert f"INFO    cpu0   {name} is tried again: EngineFailed: RuntimeError: this picture is poison" in text
        assert f"WARNING cpu0   {name} failed: EngineFailed: RuntimeError: this picture is poison" in text
