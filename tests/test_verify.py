"""caption.verify and --redo: every image counted once, damage named, rows replaced only on request."""

import contextlib
import io
import json
import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from caption.verify import main
from tests.runs import ROOT, captions, command, empty_pictures, environment, failures, run


def finish(folder):
    """(input, output) of a finished run over 50 pictures, one of them given up."""
    empty_pictures(folder / "in", 49)
    (folder / "in" / "000020-poison.jpg").touch()
    assert again(folder / "in", folder / "out", fault="error").returncode == 0
    return folder / "in", folder / "out"


def again(pictures, out, *more, **fault):
    return run(pictures, "--output", out, "--model", "null", "--max-retries", 0, *more, **fault)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("job"))


@pytest.fixture
def job(finished, tmp_path):
    """A copy of its output, with the input that all tests share: it must stay as it is."""
    shutil.copytree(finished[1], tmp_path / "out")
    return finished[0], tmp_path / "out"


@pytest.fixture
def own_job(tmp_path):
    """With an input that may be changed."""
    return finish(tmp_path)


def verify(*args):
    """In this process, which saves its start."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(arg) for arg in args])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def test_a_whole_folder_verifies_with_its_own_input(job):
    done = verify(job[1])
    assert done.returncode == 0, done.stdout
    assert "50 images = 49 captioned + 1 failed + 0 pending" in done.stdout


def test_pending_and_orphaned_images_are_counted_and_no_error(own_job):
    pictures, out = own_job
    (pictures / "000000.jpg").unlink()
    (pictures / "000020-poison.jpg").unlink()
    empty_pictures(pictures, 3, prefix="new")
    done = verify(out, pictures)
    assert done.returncode == 0, done.stdout
    assert "51 images = 48 captioned + 0 failed + 3 pending; 2 rows are orphaned" in done.stdout


def test_images_that_were_left_out_are_not_pending(tmp_path):
    names = empty_pictures(tmp_path / "in", 5)
    for name in names[:2]:
        (tmp_path / "in" / name).with_suffix(".txt").touch()
    done = again(tmp_path / "in", tmp_path / "out", "--skip-existing", ".txt", "--limit", 4)
    assert done.returncode == 0, done.stderr
    (tmp_path / "in" / names[3]).with_suffix(".txt").touch()  # of a captioned one, as an export writes it
    found = verify(tmp_path / "out").stdout
    assert "5 images = 2 captioned + 0 failed + 2 left out (--skip-existing .txt) + 1 pending; 0" in found


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
    refused = again(*job)
    assert refused.returncode == 4 and "damaged" in refused.stderr and str(path) in refused.stderr
    mended = verify(job[1], "--repair")
    assert mended.returncode == 0, mended.stdout
    repeated = again(*job, fault="error")
    assert repeated.returncode == 0, repeated.stderr
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
    assert "0 captioned" in again(*job).stdout
    done = again(*job, "--retry-failed")
    assert done.returncode == 0 and "1 captioned" in done.stdout
    assert len(captions(job[1])) == 50 and failures(job[1]) == {}
    assert verify(job[1]).returncode == 0


def test_redo_replaces_just_the_rows_named_in_a_file(job, tmp_path):
    before = {id: json.dumps(row) for id, row in captions(job[1]).items()}
    (tmp_path / "ids.txt").write_text("000003.jpg\n000004.jpg\n000020-poison.jpg\nnot-there.jpg\n")
    done = again(*job, "--redo", tmp_path / "ids.txt")
    assert done.returncode == 0 and "3 captioned" in done.stdout, done.stdout
    after = captions(job[1])
    assert len(after) == 50 and failures(job[1]) == {}
    assert all(json.dumps(after[id]) == row for id, row in before.items() if id not in ("000003.jpg", "000004.jpg"))
    assert verify(job[1]).returncode == 0


def test_redo_of_a_flag_that_there_is_not_is_wrong_use(job, tmp_path):
    done = again(*job, "--redo", "cutoff")
    assert done.returncode == 2 and "cut-off" in done.stderr


def one_sentence(done, code, *words):
    assert done.returncode == code, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("caption: ")
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("name", [*FILES, "run.json"])
@pytest.mark.parametrize("more", [[], ["--repair"]])
def test_a_file_replaced_by_a_folder_is_one_sentence(job, name, more):
    (job[1] / name).unlink()
    (job[1] / name).mkdir()
    one_sentence(verify(job[1], *more), 2, name.rpartition("/")[2])


def test_an_error_of_the_disk_is_one_sentence(job, monkeypatch, capsys):
    """Also for root, whom no permissions stop."""
    from caption import verify as module

    for place in ("checkpoint.check", "checkpoint.read", "caption.verify._ids"):
        with monkeypatch.context() as patch:
            patch.setattr(place, lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied", "the-file")))
            assert module.main([str(job[1])]) == 2
        said = capsys.readouterr().err
        assert said == "caption: can't read the-file: Permission denied: check that it is there and its permissions.\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
@pytest.mark.parametrize("name", ["", "checkpoint", "captions.jsonl", "checkpoint/checkpoint.json", "run.json"])
def test_what_may_not_be_read_is_one_sentence(job, name):
    path = job[1] / name
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        one_sentence(verify(job[1]), 2, "Permission denied")
    finally:
        path.chmod(mode)


@pytest.mark.parametrize("end", ["| true", ">&-", ">/dev/full", ">&- 2>&-"])
def test_a_reader_that_is_gone_is_no_error(job, end):
    line = f"{subprocess.list2cmdline(command(job[1], module='caption.verify'))} {end}; echo ${{PIPESTATUS[0]}} >&3"
    read, write = os.pipe()
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&{write}; {line}"], env=environment(), pass_fds=[write], capture_output=True, text=True,
        timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    os.close(write)
    assert done.stderr == ""
    with open(read) as file:
        assert file.read() == "0\n"


def test_an_input_that_is_not_known_is_told(job):
    (job[1] / "run.json").unlink()
    done = verify(job[1])
    assert done.returncode == 0
    assert "INPUT is not known: rows are not compared with it (give it as the second argument)" in done.stdout
    assert "50 images = " in verify(job[1], job[0]).stdout


def test_an_input_that_is_gone_is_told(job):
    content = (job[1] / "run.json").read_text()
    (job[1] / "run.json").write_text(content.replace(str(job[0]), "/nowhere/in"))
    done = verify(job[1])
    assert done.returncode == 0
    assert "INPUT /nowhere/in is not there: rows are not compared with it (give it as the" in done.stdout


DAMAGED = [
    b"",
    b"{",
    b"\xff",
    b"[]",
    b"{}",
    b'{"fingerprint": {"input": 3}, "runs": []}',
    b'{"fingerprint": {"input": "x"}}',
]


@pytest.mark.parametrize("content", [*DAMAGED, b'{"fingerprint": {"input": "x"}, "runs": [1]}'])
def test_a_damaged_run_json_is_named_and_a_repair_sets_it_aside(job, content):
    path = job[1] / "run.json"
    path.write_bytes(content)
    found = verify(job[1])
    assert found.returncode == 4 and found.stderr == ""
    assert f"Wrong: {path} is damaged" in found.stdout and "1 problem." in found.stdout
    assert "INPUT is not known" in found.stdout
    mended = verify(job[1], "--repair")
    assert mended.returncode == 0, mended.stdout
    assert f"Renamed {path}, which was damaged, to run.json.damaged" in mended.stdout
    assert (job[1] / "run.json.damaged").read_bytes() == content and not path.exists()


def test_an_empty_row_file_that_is_missing_is_an_empty_one(job, tmp_path):
    assert again(*job, "--retry-failed").returncode == 0
    (job[1] / "failed.jsonl").unlink()
    done = verify(job[1])
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_run_after_a_repair_makes_run_json_anew(job, tmp_path):
    (job[1] / "run.json").write_bytes(b"{")
    assert verify(job[1], "--repair").returncode == 0
    assert again(*job).returncode == 0
    assert "50 images = " in verify(job[1]).stdout
