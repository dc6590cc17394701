"""--dedupe: equal bytes under the same prompt are computed once, and each image has its row."""

import json

import pytest

from tests.pictures import quadrants
from tests.runs import captions, failures, kill_group, run, start, wait_for_rows


@pytest.fixture
def folder(tmp_path):
    """Three pictures four times each, with other lengths, and four empty files."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        quadrants(64 + 8 * number).save(folder / f"{number}-0.png")
        for copy in range(1, 4):
            (folder / f"{number}-{copy}.png").write_bytes((folder / f"{number}-0.png").read_bytes())
    for copy in range(4):
        (folder / f"empty-{copy}.png").touch()
        (folder / f"broken-{copy}.png").write_bytes((folder / "0-0.png").read_bytes()[:60])
    return folder


def test_twins_get_the_row_of_the_first_with_their_own_id(folder, tmp_path):
    out = tmp_path / "out"
    done = run(folder, "--output", out, "--model", "shapes", "--max-new-tokens", "6", "--dedupe")
    assert done.returncode == 0, done.stderr
    rows, failed = captions(out), failures(out)
    assert len(rows) == 12 and len(failed) == 8
    for id, row in rows.items():
        first = rows[f"{id[0]}-0.png"]
        assert row["image"] == id
        assert (row["caption"], row["width"], row["seed"]) == (first["caption"], first["width"], first["seed"])
        assert row.get("twin_of") == (None if row is first else first["id"])
    assert {row["error"] for id, row in failed.items() if id.startswith("broken")} == {"Truncated"}
    assert "twin_of" in failed["broken-3.png"] and "twin_of" not in failed["empty-3.png"]
    assert run(out, module="caption.verify").returncode == 0


def test_pictures_asked_something_else_are_no_twins(tmp_path, folder):
    path = tmp_path / "rows.jsonl"
    rows = [{"image": f"in/0-{n}.png", "prompt": f"{n // 2}?"} for n in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    assert run(path, "--output", out, "--model", "null", "--dedupe").returncode == 0
    assert [row.get("twin_of") for _, row in sorted(captions(out).items())] == [None, "in/0-0.png", None, "in/0-2.png"]


def test_killed_while_twins_wait_they_take_the_row_of_the_run_before(tmp_path, folder):
    """Limited to the firsts, the run before leaves all twins open."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"image": f"in/{n}-{m}.png"}) for m in range(4) for n in range(3)))
    out, options = tmp_path / "out", ("--model", "null:20", "--dedupe", "--checkpoint-every", "1")
    process = start(path, "--output", out, "--limit", "3", *options)
    wait_for_rows(out, 1)
    kill_group(process)
    assert run(path, "--output", out, "--limit", "3", *options).returncode == 0
    done = run(path, "--output", out, *options)
    assert done.returncode == 0, done.stderr
    rows = captions(out)
    assert len(rows) == 12
    assert all(rows[f"in/{n}-3.png"]["caption"] == rows[f"in/{n}-0.png"]["caption"] for n in range(3))
    assert all(rows[f"in/{n}-3.png"]["twin_of"] == f"in/{n}-0.png" for n in range(3))
