"""A disk that is full or fails under a run: a clean stop, one sentence, and the same command completes."""

import re

import pytest

from tests.runs import captions, empty_pictures, run


@pytest.fixture
def command(tmp_path):
    empty_pictures(tmp_path / "in", 2000)
    return (tmp_path / "in", "--output", tmp_path / "out", "--model", "null", "--checkpoint-every", 100)


def completes(command, out):
    done = run(*command)
    assert done.returncode == 0, done.stderr
    rows = captions(out)
    assert len(rows) == 2000 and all(row["caption"] == id for id, row in rows.items())
    assert run(out, module="caption.verify").returncode == 0


@pytest.mark.parametrize("space", [3000, 40_000, 200_000])
def test_a_full_disk_ends_with_5_says_how_much_is_missing_and_a_resume_completes(command, tmp_path, space):
    done = run(*command, fault="disk full", FAULT_AFTER=str(space))
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    missing = int(re.search(r"about ([\d,]+) bytes are missing", last).group(1).replace(",", ""))
    assert "full" in last and "same command again" in last
    if space > 30_000:  # with rows to judge by, the figure is about what the rest takes
        whole = 2000 * 190
        assert 0.5 * (whole - space) < missing < 1.5 * (whole - space)
    completes(command, tmp_path / "out")


@pytest.mark.parametrize("calls", [3, 6, 11])
def test_an_error_on_sync_ends_with_5_and_a_resume_completes(command, tmp_path, calls):
    done = run(*command, fault="sync error", FAULT_AFTER=str(calls))
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert "Input/output error" in done.stderr.splitlines()[-1]
    completes(command, tmp_path / "out")
