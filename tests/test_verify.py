"""caption.verify and --redo: every image counted once, damage named, rows replaced only on request."""

import json

import pytest

from tests.runs import captions, empty_pictures, failures, run


@pytest.fixture
def job(tmp_path):
    """(input, output) of a finished run over 50 pictures, one of them given up."""
    empty_pictures(tmp_path / "in", 49)
    (tmp_path / "in" / "000020-poison.jpg").touch()
    assert run(*COMMAND(tmp_path), fault="error").returncode == 0
    return tmp_path / "in", tmp_path / "out"


def COMMAND(folder, *more):
    return (folder / "in", "--output", folder / "out", "--model", "null", "--max-retries", 0, *more)


def verify(*args):
    return run(*args, module="caption.verify")


def test_a_whole_folder_verifies_with_its_own_input(job):
    done = verify(job[1])
    assert done.returncode == 0, done.stdout
    assert "50 images = 49 captioned + 1 failed + 0 pending" in done.stdout


def test_pending_and_orphaned_images_are_counted_and_no_error(job):
    pictures, out = job
    (pictures / "000000.jpg").unlink()
    (pictures / "000020-poison.jpg").unlink()
    empty_pictures(pictures, 3, prefix="new")
    done = verify(out, pictures)
    assert done.returncode == 0, done.stdout
    assert "51 images = 48 captioned + 0 failed + 3 pending; 2 rows are orphaned" in done.stdout


FILES = ["captions.jsonl", "failed.jsonl", "checkpoint/rows.idx", "checkpoint/checkpoint.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_named_and_a_repair_and_the_next_run_mend_it(job, tmp_path, name):
    path = job[1] / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    found = verify(job[1])
    assert found.returncode == 4
    assert name.rpartition("/")[2] in found.stdout and "Traceback" not in found.stderr
    refused = run(*COMMAND(tmp_path))
    assert refused.returncode == 4 and "damaged" in refused.stderr and str(path) in refused.stderr
    mended = verify(job[1], "--repair")
    assert mended.returncode == 0, mended.stdout
    again = run(*COMMAND(tmp_path), fault="error")
    assert again.returncode == 0, again.stderr
    assert len(captions(job[1])) == 49 and len(failures(job[1])) == 1
    assert verify(job[1]).returncode == 0


def test_a_lost_row_and_a_torn_tail_do_not_verify(job):
    path = job[1] / "captions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "torn')
    assert verify(job[1]).returncode == 4
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:10] + lines[11:]))
    assert verify(job[1]).returncode == 4


def test_what_is_no_output_folder_is_wrong_use(tmp_path):
    done = verify(tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_failed_images_are_tried_again_only_on_request(job, tmp_path):
    assert "0 captioned" in run(*COMMAND(tmp_path)).stdout
    done = run(*COMMAND(tmp_path, "--retry-failed"))
    assert done.returncode == 0 and "1 captioned" in done.stdout
    assert len(captions(job[1])) == 50 and failures(job[1]) == {}
    assert verify(job[1]).returncode == 0


def test_redo_replaces_just_the_rows_named_in_a_file(job, tmp_path):
    before = {id: json.dumps(row) for id, row in captions(job[1]).items()}
    (tmp_path / "ids.txt").write_text("000003.jpg\n000004.jpg\n000020-poison.jpg\nnot-there.jpg\n")
    done = run(*COMMAND(tmp_path, "--redo", tmp_path / "ids.txt"))
    assert done.returncode == 0 and "3 captioned" in done.stdout, done.stdout
    after = captions(job[1])
    assert len(after) == 50 and failures(job[1]) == {}
    assert all(json.dumps(after[id]) == row for id, row in before.items() if id not in ("000003.jpg", "000004.jpg"))
    assert verify(job[1]).returncode == 0


def test_redo_of_a_flag_that_no_row_has_is_wrong_use(job, tmp_path):
    done = run(*COMMAND(tmp_path, "--redo", "cut-off"))
    assert done.returncode == 2 and "cut-off" in done.stderr
