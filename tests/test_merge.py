"""caption.merge: shards become one folder, as if one run had done it all, whatever happens meanwhile."""

import json
import shutil
import signal
import subprocess

import orjson
import pytest

import checkpoint
from caption import export, merge, verify
from caption.report.__main__ import main as report_main
from caption.run import main as run_main
from caption.shard import Shard
from tests.runs import captions, command, empty_pictures, environment, failures, run_file, wait_for_rows

SHARDS = 3


def run(*words):
    return run_main([str(word) for word in words])


def merged(*words):
    return merge.main([str(word) for word in words])


def asked(pictures, out, *more):
    return (pictures, "--output", out, "--model", "null", "--max-retries", 0, "--seed", 5, *more)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """(input, folder of its shards, folder of an unsharded run); one picture fails, each is asked two things."""
    folder = tmp_path_factory.mktemp("job")
    empty_pictures(folder / "in", 40)
    table = folder / "table.jsonl"
    lines = [{"image": f"in/{path.name}", "topic": path.stem} for path in sorted((folder / "in").iterdir())]
    lines[7].pop("topic")  # which its prompt asks for
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompts = ("--prompts", "what=What is {topic}?", "--prompts", "short=Short.", "--temperature", 1)
    assert run(*asked(table, folder / "whole", *prompts)) == 0
    for number, limit in [(0, 30), (0, 40), (1, 40), (2, 40)]:  # the first goes on after a part of it
        assert run(*asked(table, folder / "out", *prompts, "--shard", f"{number}/{SHARDS}", "--limit", limit)) == 0
    return table, folder / "out", folder / "whole", prompts


def same(row):
    return row | {"seconds": 0}


def test_merged_shards_are_what_an_unsharded_run_makes_and_go_on_as_one(job, tmp_path, capsys):
    table, shards, whole, prompts = job
    out = tmp_path / "all"
    for number in range(SHARDS):
        assert verify.main([str(shards / Shard(number, SHARDS).folder)]) == 0
        assert "+ 0 pending; 0 rows are orphaned" in capsys.readouterr().out
    assert merged(shards, "--output", out) == 0
    assert "Merged: 80 rows" in capsys.readouterr().out
    assert {id: same(row) for id, row in captions(out).items()} == {
        id: same(row) for id, row in captions(whole).items()
    }
    assert failures(out) == failures(whole) and len(failures(out)) == 1
    assert verify.main([str(out)]) == 0
    assert "80 images = 79 captioned + 1 failed + 0 pending" in capsys.readouterr().out
    runs = run_file(out)["runs"]
    assert {one["settings"]["shard"] for one in runs[:-1]} == {"0/3", "1/3", "2/3"}
    assert runs[-1]["settings"]["shard"] is None and runs[-1]["merged"]["total"] == 80
    assert run_file(out)["fingerprint"] == run_file(whole)["fingerprint"]
    assert export.main([str(out), "--to", "csv"]) == 0 and report_main([str(out)]) == 0
    table.write_text(table.read_text() + json.dumps({"image": "in/new.jpg", "topic": "new"}) + "\n")
    try:
        assert run(*asked(table, out, *prompts, "--retry-failed")) == 0
    finally:
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:40]))
    assert "2 captioned" in capsys.readouterr().out
    assert len(captions(out)) == 81 and len(failures(out)) == 1


def test_typed_again_a_merge_adds_what_is_missing_and_a_caption_takes_the_place_of_a_failure(job, tmp_path, capsys):
    shards, out = [job[1] / Shard(number, SHARDS).folder for number in range(SHARDS)], tmp_path / "all"
    failed = next(one for one in shards if (one / "failed.jsonl").stat().st_size)
    copies = [shutil.copytree(one, tmp_path / one.name) for one in shards]
    mended = tmp_path / failed.name
    assert merged(mended, "--output", out, "--partial") == 0
    assert "2 shards are not done" in capsys.readouterr().out
    assert set(captions(out)) == set(captions(mended)) and len(failures(out)) == 1
    view = checkpoint.read(mended)
    [(id, _)] = failures(mended).items()
    with checkpoint.open(mended, view.fingerprint) as record:
        record.withdraw("failed.jsonl", [id])
        record.append("captions.jsonl", [(id, orjson.dumps({"id": id, "caption": "at last", "flags": []}))])
    assert merged(*copies, "--output", out) == 0
    assert "1 images that had failed have a caption now" in capsys.readouterr().out
    assert failures(out) == {} and len(captions(out)) == 80 and captions(out)[id]["caption"] == "at last"
    assert verify.main([str(out), str(job[0])]) == 0


def copied(job, tmp_path, *numbers):
    return [shutil.copytree(job[1] / Shard(n, SHARDS).folder, tmp_path / Shard(n, SHARDS).folder) for n in numbers]


def refused(capsys, code, *words):
    assert merged(*words) == code
    said = capsys.readouterr().err
    assert said.startswith("caption: ") and len(said.splitlines()) == 1
    return said


def test_what_is_no_whole_set_of_one_job_is_refused_in_a_sentence(job, tmp_path, capsys):
    out = ("--output", tmp_path / "all")
    one, two = copied(job, tmp_path, 0, 1)
    assert "shard 2/3 is missing" in refused(capsys, 2, tmp_path, *out)
    assert "both shard 0/3" in refused(capsys, 2, tmp_path, job[1], *out)
    assert "no output folder" in refused(capsys, 2, tmp_path / "in", *out)
    assert "no shard, but a whole job" in refused(capsys, 2, job[2], *out)
    runs = json.loads((two / "run.json").read_text())
    runs["runs"][-1]["exit_code"] = 143
    (two / "run.json").write_text(json.dumps(runs))
    assert f"{two}, shard 1/3, is not finished" in refused(capsys, 2, one, two, job[1] / "shard-0002-of-0003", *out)
    runs["runs"][-1] |= {"exit_code": 0, "settings": {"limit": 30}}
    (two / "run.json").write_text(json.dumps(runs))
    said = refused(capsys, 2, one, two, job[1] / "shard-0002-of-0003", *out)
    assert f"{two}, shard 1/3, has done its part of the first 30 images, others the first 40" in said
    other = checkpoint.read(one).fingerprint | {"seed": 6, "shard": "2/3"}
    checkpoint.open(tmp_path / "shard-0002-of-0003", other).close()
    assert "different jobs, their seed is 5 and 6" in refused(capsys, 4, tmp_path, *out)
    assert "its shard was '0/3'" in refused(capsys, 4, job[1], "--output", one)
    assert not (tmp_path / "all").exists()
    with checkpoint.open(one, checkpoint.read(one).fingerprint):
        assert "is being written by" in refused(capsys, 4, one, *job[1].glob("*1-of-*"), *job[1].glob("*2-of-*"), *out)


def test_rows_that_are_damaged_or_of_another_shard_are_named_before_they_are_taken(job, tmp_path, capsys):
    one, two = copied(job, tmp_path, 0, 1)
    rows = one / "captions.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b"What", b"What"[::-1], 1))
    assert str(rows) in refused(capsys, 4, one, "--partial", "--output", tmp_path / "all")
    with checkpoint.open(two, checkpoint.read(two).fingerprint) as record:
        strange = next(id for id in captions(job[2]) if not record.done([id])[0])
        record.append("captions.jsonl", [(strange, orjson.dumps({"id": strange}))])
    said = refused(capsys, 4, two, "--partial", "--output", tmp_path / "all")
    assert repr(strange) in said and "does not belong to shard 1/3" in said
    assert strange not in captions(tmp_path / "all")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """(folder of two shards, their ids)"""
    folder, ids = tmp_path_factory.mktemp("large"), [f"{n:06}.jpg" for n in range(30_000)]
    for shard in (Shard(0, 2), Shard(1, 2)):
        rows = [(id, orjson.dumps({"id": id, "caption": id})) for id in ids if shard.holds(id)]
        with checkpoint.open(folder / shard.folder, {"shard": str(shard)}) as record:
            record.append("captions.jsonl", rows)
        (folder / shard.folder / "run.json").write_text('{"fingerprint": {}, "runs": [{"exit_code": 0}]}')
    return folder, ids


@pytest.mark.parametrize("rows", [0, 16_000], ids=["before_the_first_row", "in_the_last_shard"])
def test_killed(large, tmp_path, rows):
    """kill -9, and the same command again: each row once, as in its shard."""
    folder, ids = large
    words = command(folder, "--output", tmp_path, module="caption.merge")
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)
    wait_for_rows(tmp_path, rows)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert merged(folder, "--output", tmp_path) == 0
    assert {id: row["caption"] for id, row in captions(tmp_path).items()} == {id: id for id in ids}
    assert checkpoint.check(tmp_path) == []


def test_a_merge_that_finds_nothing_new_keeps_its_folder_locked(large, tmp_path, monkeypatch):
    folder, ids = large
    assert merged(folder, "--output", tmp_path) == 0
    beats, beat = [], checkpoint.Record.beat
    monkeypatch.setattr(checkpoint.Record, "beat", lambda record: (beats.append(1), beat(record)))
    assert merged(folder, "--output", tmp_path) == 0
    assert len(beats) >= len(ids) // 4096
