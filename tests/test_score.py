"""The second stage: each caption scored once, whatever happens in between; what it comes to; what the user is told."""

import json
import os
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("sacrebleu")

import caption.run
import checkpoint
from caption.jobstate import Observer
from caption.score.__main__ import main
from caption.score.averages import averages
from caption.score.source import ScoreSource
from caption.scorer import Scorer, make_scorer
from caption.settings import Settings
from tests import runs
from tests.reports import Job, row
from tests.runs import ROOT, empty_pictures, environment, kill_group, rows, run

GIB = 1 << 30
BY_TRUTH = ("--scorer", "reference", "--reference", "truth")


@pytest.fixture
def score(capsys):
    """score(out, …): the command line in this process; its exit code, and what it printed."""

    def call(out, *args):
        code = main([str(out), *map(str, args)])
        return code, capsys.readouterr()

    return call


def scores(out: Path) -> dict[str, dict]:
    found = rows(out / "scores.jsonl") + rows(out / "failed_scores.jsonl")
    by_id = {one["id"]: one for one in found}
    assert len(by_id) == len(found), "an id stands twice"
    return by_id


def folder(tmp_path, count=6, **more):
    """An output folder: the caption of every second row is its reference, and that of the last is missing."""
    made = []
    for number in range(count):
        caption = f"Caption number {number}."
        extra = {"truth": caption if number % 2 else "Something else.", "kind": "odd" if number % 2 else "even"}
        made.append(row(f"{number:06}.jpg", caption, extra=extra if number < count - 1 else None, **more))
    return Job(tmp_path).run().add(made)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of many pictures that only the do-nothing engine can caption, which answers with the id."""
    where = tmp_path_factory.mktemp("table")
    ids = [f"{number:06}.jpg" for number in range(3000)]
    lines = [{"image": id, "truth": id if i % 2 else "x", "kind": ["odd", "even"][i % 2]} for i, id in enumerate(ids)]
    (where / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return where / "rows.jsonl", {line["image"]: float(line["image"] == line["truth"]) for line in lines}


# ---- what happens in between


def test_killed_in_the_second_stage_the_same_command_goes_on_and_scores_each_caption_once(table, tmp_path):
    source, exact = table
    command = (source, "--output", tmp_path, "--model", "null", "--checkpoint-every", 500, "--then-score", "reference",
               "--reference", "truth", "--group-by", "kind")  # fmt: skip
    for count in (100, 1500):
        process = runs.start(*command)
        while not (path := tmp_path / "scores.jsonl").exists() or path.stat().st_size < 100 * count:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        kill_group(process)
        assert 0 < (tmp_path / "scores.jsonl").read_bytes().count(b"\n") < 3000
        assert len(runs.captions(tmp_path)) == 3000
    told = run(tmp_path, module="caption.status").stdout
    assert "not all are scored" in told and "Go on    " in told and "--then-score" in told
    done = run(*command)
    assert done.returncode == 0, done.stderr
    found = scores(tmp_path)
    assert {id: one["parts"]["exact"] for id, one in found.items()} == exact
    assert "  even     1.0000  (1,500)\n  odd      0.0000  (1,500)" in done.stdout
    verified = run(tmp_path, module="caption.verify")
    assert verified.returncode == 0 and "3,000 scored" in verified.stdout
    assert Observer(tmp_path).look().go_on is None


def test_a_stop_with_the_last_captions_leaves_the_scores_to_the_same_command_and_says_so(tmp_path):
    empty_pictures(tmp_path / "in", 2)
    code = (
        "import signal, sys, caption.run, caption.stage as s\n"
        "class Late(s.Stage):\n"
        "    def run(self):\n"
        "        outcome = super().run()\n"
        "        with self.stop.looked_after(): signal.raise_signal(signal.SIGINT)\n"
        "        return outcome\n"
        "if __name__ == '__main__':\n"
        "    import caption.job\n"
        "    caption.job.Stage = Late\n"
        "    sys.exit(caption.run.main(sys.argv[1:]))"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--model", "null",
            "--then-score", "judge"]  # fmt: skip
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130 and "Stopped by SIGINT before the scores" in done.stdout, done.stderr
    found = Observer(tmp_path / "out").look()
    assert (found.captioned, found.scored, found.scores_left) == (2, 0, True)


def test_between_the_stages_the_memory_of_each_gpu_is_measured_and_shown(tmp_path):
    gpus = [{"uuid": f"GPU-{name}", "free": 60 * GIB, "total": 80 * GIB, "takes": 25 * GIB} for name in "ab"]
    (tmp_path / "gpus.json").write_text(json.dumps({"gpus": gpus}))
    empty_pictures(tmp_path / "in", 40)
    command = (tmp_path / "in", "--output", tmp_path / "out", "--model", "null:5", "--then-score", "judge:null")
    done = run(*command, fault="gpu", gpus=tmp_path / "gpus.json")
    assert done.returncode == 0, done.stderr
    before, after = f"{45 * GIB / 1e9:.0f} GB", f"{20 * GIB / 1e9:.0f} GB"
    lines = done.stdout.splitlines()
    told = [f"gpu{number}    memory {before} -> {after}: the captioner is unloaded" for number in (0, 1)]
    assert [line for line in lines if "unloaded" in line] == told
    assert lines.index(told[1]) < next(i for i, line in enumerate(lines) if line.startswith("Scorer"))
    noted = json.loads((tmp_path / "out" / "scores" / "run.json").read_text())["runs"][0]["memory"]
    assert noted["gpu0"] == {"before": 45 * GIB, "after": 20 * GIB}
    ratings = {id: one.get("score") for id, one in scores(tmp_path / "out").items()}
    assert ratings == {f"{n:06}.jpg": float(n) if n <= 10 else None for n in range(40)}  # the id is what null says
    again = run(*command, fault="gpu", gpus=tmp_path / "gpus.json")
    assert again.returncode == 0 and "unloaded" not in again.stdout  # nothing was loaded
    failed = rows(tmp_path / "out" / "failed_scores.jsonl")
    assert {one["error"] for one in failed} == {"NoScore"} and {one["attempts"] for one in failed} == {4}


def test_captions_that_came_or_were_done_again_since_are_scored_and_the_others_are_not_again(tmp_path, score):
    job = folder(tmp_path)
    code, told = score(job.out, *BY_TRUTH)
    assert code == 0 and "5 scored" in told.out and "1 failed (1 MissingField)" in told.out
    before = scores(job.out)
    with checkpoint.open(job.out, {}) as record:
        record.withdraw("captions.jsonl", ["000001.jpg"])
    job.add([row("000001.jpg", "Another.", extra={"truth": "Another one."}), row("new.jpg", extra={"truth": "x"})])
    code, told = score(job.out, *BY_TRUTH)
    assert code == 0 and "1 scores are of captions that were done again" in told.out and "2 scored" in told.out
    after = scores(job.out)
    assert set(after) == {*before, "new.jpg"}
    assert {id for id in before if after[id] != before[id]} == {"000001.jpg"}
    assert after["000001.jpg"]["caption_crc32"] == zlib.crc32(b"Another.")
    code, told = score(job.out, *BY_TRUTH, "--retry-failed")
    assert code == 0 and "0 scored, 1 failed" in told.out and scores(job.out) == after


def test_a_caption_that_was_done_again_is_scored_though_the_one_before_failed(tmp_path, score):
    job = folder(tmp_path, 2)
    assert score(job.out, *BY_TRUTH)[0] == 0
    with checkpoint.open(job.out, {}) as record:
        record.withdraw("captions.jsonl", ["000001.jpg"])
    job.add([row("000001.jpg", "Another.", extra={"truth": "Another."})])
    code, told = score(job.out, *BY_TRUTH)
    assert code == 0 and "1 scored in" in told.out and "0 failed, 1 done before" in told.out
    assert scores(job.out)["000001.jpg"]["score"] == 1 and not rows(job.out / "failed_scores.jsonl")


def test_another_scorer_is_refused_until_the_scores_of_the_first_are_taken_out(tmp_path, score, capsys):
    job = folder(tmp_path)
    assert score(job.out, *BY_TRUTH)[0] == 0
    code, told = score(job.out, "--scorer", "judge:null")
    assert (code, len(told.err.splitlines())) == (4, 1) and "--anew" in told.err
    assert {one["scorer"] for one in rows(job.out / "scores.jsonl")} == {"reference:truth"}
    empty_pictures(job.input, 6)
    in_one = [str(job.input), "--output", str(job.out), "--model", "null", "--then-score", "judge"]
    assert caption.run.main(in_one) == 4, "said before a caption is made"
    assert "the scores in" in capsys.readouterr().err
    assert score(job.out, "--scorer", "judge:null", "--anew")[0] == 0
    assert {one["scorer"] for one in rows(job.out / "scores.jsonl")} == {"judge:null"}


# ---- what it comes to


def test_averages_spread_and_groups(tmp_path):
    job = folder(tmp_path, 5)
    assert averages(job.out, None) is None
    values = {"000000.jpg": 0.0, "000001.jpg": 0.25, "000002.jpg": 0.5, "000003.jpg": 0.75, "000004.jpg": 1.0}
    lines = [{"id": id, "score": value, "parts": {"a": value, "b": 1.0}} for id, value in values.items()]
    torn = b'{"id":"x","score":9'
    (job.out / "scores.jsonl").write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines) + torn)
    found = averages(job.out, "kind")
    assert (found.count, found.average, found.lowest, found.quartiles, found.highest) == (
        5,
        0.5,
        0,
        (0.25, 0.5, 0.75),
        1,
    )
    assert found.spread == pytest.approx(0.125**0.5) and found.parts == {"a": 0.5, "b": 1.0}
    assert {name: (one.count, one.average) for name, one in found.groups.items()} == {
        "even": (2, 0.25), "odd": (2, 0.5), "(none)": (1, 1.0),
    }  # fmt: skip
    assert list(averages(job.out, "id").groups) == list(values)  # a field of the row itself
    assert any("No caption has a field knd" in line for line in averages(job.out, "knd").lines())


def test_references_may_stand_in_a_file_by_id_or_image_and_be_several(tmp_path, score):
    job = folder(tmp_path, 3)
    truth = tmp_path / "truth.jsonl"
    lines = [{"image": "000000.jpg", "caption": "Caption number 0."}, {"id": "000001.jpg", "captions": ["x", "y"]},
             {"id": "000001.jpg", "caption": "Caption number 1"}]  # fmt: skip
    truth.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert score(job.out, "--scorer", "reference", "--reference", truth)[0] == 0
    found = scores(job.out)
    assert found["000000.jpg"]["parts"]["exact"] == found["000001.jpg"]["parts"]["exact"] == 1
    assert found["000002.jpg"]["error"] == "MissingField"


def test_a_table_of_references_that_is_no_utf_8_is_read_as_far_as_it_goes(tmp_path, score):
    job, truth = folder(tmp_path, 2), tmp_path / "truth.csv"
    truth.write_bytes(b"id,caption\n000000.jpg,Caption number 0 \xe9\n000001.jpg,Caption number 1.\n")
    assert score(job.out, "--scorer", "reference", "--reference", truth)[0] == 0
    found = scores(job.out)
    assert 0.8 < found["000000.jpg"]["score"] < 1 == found["000001.jpg"]["score"]


def test_a_growing_folder_is_read_to_the_rows_that_come_while_it_is_read(tmp_path):
    job = folder(tmp_path, 3)
    items = ScoreSource(job.out, Scorer("reference", reference="x"), _Nothing(), None).items()
    seen = [next(items).id]
    job.add([row("later.jpg", "Late.")])
    assert seen + [item.id for item in items] == ["000000.jpg", "000001.jpg", "000002.jpg", "later.jpg"]


class _Nothing:
    missing = "there is none"

    def of(self, row):
        return []


# ---- what the user is told


@pytest.mark.parametrize(
    ("args", "said"),
    [((), "--scorer is missing"), (("--scorer", "reference"), "needs --reference"),
     (("--scorer", "x", "--reference", "truth"), "--reference is not for"), (("--scorer", "./x"), "no model folder"),
     (("--scorer", "judge:null", "--rubric", "Rate it."), "{caption}"),
     (("--scorer", "reference", "--reference", "no.jsonl"), "there is no file"),
     (("--scorer", "reference", "--reference", "\udcff"), "is no UTF-8"),
     (("--scorer", "judge:null", "--image-root", "/nowhere"), "say with --image-root where")],
)  # fmt: skip
def test_wrong_use_is_one_sentence_and_status_2(tmp_path, score, args, said):
    job = folder(tmp_path)
    code, told = score(job.out, *args)
    assert code == 2 and said in told.err and len(told.err.splitlines()) == 1
    assert not (job.out / "scores.jsonl").exists()


def test_a_scorer_that_is_not_there_is_said_before_the_first_caption_is_made(tmp_path, monkeypatch, capsys):
    empty_pictures(tmp_path / "in", 3)
    monkeypatch.chdir(tmp_path)
    assert caption.run.main(["in", "--output", "out", "--model", "null", "--then-score", "./nowhere"]) == 2
    assert "no model folder ./nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_judge_by_itself_is_the_captioner():
    assert make_scorer("judge", Settings(), "org/model").model == "org/model"
    assert make_scorer("judge:org/other", Settings(), "org/model").model == "org/other"
    assert make_scorer("org/clip", Settings(), "org/model") == Scorer("similarity", "org/clip")


# ---- with the embedded models


def test_shapes_and_its_scorer_in_one_command(tmp_path):
    draw = ROOT / "scripts" / "draw_shapes.py"
    subprocess.run([sys.executable, draw, tmp_path / "in", "--count", "12", "--seed", "31"], check=True)
    done = run(tmp_path / "in", "--output", tmp_path / "out", "--model", "shapes", "--then-score", "shapes-scorer",
               OMP_NUM_THREADS="1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = scores(tmp_path / "out")
    assert set(found) == set(runs.captions(tmp_path / "out")) and len(found) == 12
    assert all(0.5 < one["score"] <= 1 and one["scorer"] == "shapes-scorer" for one in found.values())
    assert Counter(line.partition(" ")[0] for line in done.stdout.splitlines())["Average"] == 1
    assert os.listdir(tmp_path / "out" / "scores").count("run.json") == 1
