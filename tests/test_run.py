"""The command from outside, with the engine that does nothing: rows, resume, limits, exit codes."""

import itertools
import json
import re
import tarfile

import pytest

from tests.runs import ROOT, captions, empty_pictures, failures, run


@pytest.fixture
def pictures(tmp_path):
    empty_pictures(tmp_path / "in", 100)
    return tmp_path / "in"


def test_every_picture_stands_once_with_its_own_caption(pictures, tmp_path):
    done = run(pictures, "--output", tmp_path / "out", "--model", "null", "--workers", 2, "--seed", 7)
    assert done.returncode == 0, done.stderr
    rows = captions(tmp_path / "out")
    assert sorted(rows) == sorted(path.name for path in pictures.iterdir())
    for position, (id, row) in enumerate(sorted(rows.items())):
        assert row["caption"] == id
        assert row["seed"] == 7 + position
    assert failures(tmp_path / "out") == {}
    assert "100 captioned" in done.stdout.splitlines()[-1]
    assert "0 failed" in done.stdout.splitlines()[-1]


def test_rows_have_the_fields_of_the_contract_in_order(pictures, tmp_path):
    run(pictures, "--output", tmp_path / "out", "--model", "null", "--limit", 1)
    row = json.loads((tmp_path / "out" / "captions.jsonl").read_text())
    assert list(row) == [
        "id", "image", "caption", "finish_reason", "tokens", "width", "height", "seed", "seconds", "attempts", "flags",
    ]  # fmt: skip
    assert row["finish_reason"] == "stop"
    assert row["attempts"] == 1
    assert row["flags"] == []


def test_the_same_command_again_does_nothing_twice_and_takes_what_is_new(pictures, tmp_path):
    command = (pictures, "--output", tmp_path / "out", "--model", "null")
    run(*command)
    before = (tmp_path / "out" / "captions.jsonl").read_bytes()
    again = run(*command)
    assert again.returncode == 0
    assert "0 captioned, 0 failed, 100 done before" in again.stdout
    assert (tmp_path / "out" / "captions.jsonl").read_bytes() == before
    (pictures / "a_new_one.png").touch()
    third = run(*command)
    assert "1 captioned" in third.stdout
    assert (tmp_path / "out" / "captions.jsonl").read_bytes().startswith(before)
    runs = json.loads((tmp_path / "out" / "run.json").read_text())["runs"]
    assert [one["totals"]["captioned"] for one in runs] == [100, 0, 1]
    assert all(one["begin"] <= one["end"] and one["exit_code"] == 0 for one in runs)


def test_limit_takes_the_first_of_the_input_and_may_change(pictures, tmp_path):
    command = (pictures, "--output", tmp_path / "out", "--model", "null", "--limit")
    run(*command, 10)
    assert sorted(captions(tmp_path / "out")) == [f"{n:06}.jpg" for n in range(10)]
    run(*command, 30)
    rows = captions(tmp_path / "out")
    assert sorted(rows) == [f"{n:06}.jpg" for n in range(30)]
    assert rows["000029.jpg"]["seed"] == 29


@pytest.mark.parametrize("schedule", ["dynamic", "round-robin", "lockstep"])
def test_each_schedule_does_all_of_it(pictures, tmp_path, schedule):
    done = run(pictures, "--output", tmp_path / "out", "--model", "null:2", "--workers", 3, "--schedule", schedule,
               "--batch-size", 4)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(captions(tmp_path / "out")) == 100


def test_lockstep_says_its_rounds_and_drift_while_it_runs_at_the_end_and_in_the_files(pictures, tmp_path):
    done = run(pictures, "--output", tmp_path / "out", "--model", "null:60", "--workers", 2, "--schedule", "lockstep",
               "--batch-size", 4)  # fmt: skip
    assert re.search(r"/100 images.* round \d+, drift \d+\.\d s", done.stderr), done.stderr
    assert re.search(r"Lockstep: 13 rounds; .* [\d.]+ s on average, [\d.]+ s at most \(round \d+\)", done.stdout)
    rounds = json.loads((tmp_path / "out" / "run.json").read_text())["runs"][0]["totals"]["rounds"]
    assert rounds["number"] == 13 and 0 <= rounds["drift_mean"] <= rounds["drift_most"] < 5
    rows = [json.loads(line) for line in (tmp_path / "out" / "stats.jsonl").read_text().splitlines()]
    assert all(0 < row["round"] <= 13 and row["drift"] >= 0 for row in rows if "images" in row)
    other = run(pictures, "--output", tmp_path / "other", "--model", "null")
    assert "Lockstep:" not in other.stdout and ", round " not in other.stderr


def test_figures_over_time_are_kept_a_row_for_the_run_and_one_a_worker(pictures, tmp_path):
    run(pictures, "--output", tmp_path / "out", "--model", "null:30", "--workers", 2)
    rows = [json.loads(line) for line in (tmp_path / "out" / "stats.jsonl").read_text().splitlines()]
    totals = [row for row in rows if "images" in row]
    assert totals and {row.get("worker") for row in rows} == {None, "cpu0", "cpu1"}
    assert all(row["images_per_second"] > 0 and row["ram_total"] > 0 for row in totals[:1])
    gaps = [after["time"] - before["time"] for before, after in itertools.pairwise(totals)]
    assert all(gap >= 0.99 for gap in gaps[:-1]), "the last entry comes in any case"


def test_without_a_terminal_progress_is_plain_lines(pictures, tmp_path):
    done = run(pictures, "--output", tmp_path / "out", "--model", "null:60")
    lines = done.stderr.splitlines()
    assert any("/100 images, " in line and "failed" in line for line in lines)
    assert "\r" not in done.stderr and "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("change", "field"),
    [(("--prompt", "Another."), "prompt"), (("--max-new-tokens", "7"), "max new tokens"), (("--seed", "1"), "seed"),
     (("--model", "null:1"), "model"), (("--dtype", "bf16"), "dtype")],
)  # fmt: skip
def test_a_setting_that_changes_captions_is_refused_with_field_old_new_and_remedy(pictures, tmp_path, change, field):
    command = (pictures, "--output", tmp_path / "out", "--model", "null")
    run(*command, "--limit", 3)
    refused = run(*command, *change)
    assert refused.returncode == 4
    assert f"its {field} was" in refused.stderr and "another --output" in refused.stderr
    assert change[1] in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert len(captions(tmp_path / "out")) == 3


def test_another_input_is_refused_because_equal_names_are_other_pictures(pictures, tmp_path):
    run(pictures, "--output", tmp_path / "out", "--model", "null", "--limit", 3)
    empty_pictures(tmp_path / "other", 5)
    refused = run(tmp_path / "other", "--output", tmp_path / "out", "--model", "null")
    assert refused.returncode == 4 and "its input was" in refused.stderr


def test_a_data_set_that_was_moved_goes_on_where_the_user_says_so(pictures, tmp_path):
    command = ("--output", tmp_path / "out", "--model", "null")
    run(pictures, *command, "--limit", 60)
    before = (tmp_path / "out" / "captions.jsonl").read_bytes()
    (tmp_path / "elsewhere").mkdir()
    moved = pictures.rename(tmp_path / "elsewhere" / "in")
    refused = run(moved, *command)
    assert refused.returncode == 4 and "--moved" in refused.stderr
    assert "60 done before" in run(moved, *command, "--moved", "--dry-run").stdout
    for _ in range(2):  # typed again, too
        done = run(moved, *command, "--moved")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "captions.jsonl").read_bytes().startswith(before)
    assert len(captions(tmp_path / "out")) == 100


def test_what_can_not_change_a_caption_may_change(pictures, tmp_path):
    command = (pictures, "--output", tmp_path / "out", "--model", "null")
    run(*command, "--limit", 5)
    again = run(*command, "--batch-size", 3, "--workers", 2, "--schedule", "lockstep", "--checkpoint-every", 7,
                "--max-retries", 1, "--loaders", 2)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert len(captions(tmp_path / "out")) == 100


class TestUserErrors:
    """Each is one sentence on stderr, with the exit code of the contract and never a traceback."""

    def refused(self, code, *args, **extra):
        done = run(*args, **extra)
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr + done.stdout
        errors = [line for line in done.stderr.splitlines() if line.startswith("caption: ")]
        assert len(errors) == 1
        return errors[0]

    def test_no_such_folder(self, tmp_path):
        assert "no folder" in self.refused(2, tmp_path / "nope", "--output", tmp_path / "out")

    def test_input_is_a_file(self, tmp_path):
        (tmp_path / "list.md").touch()
        assert "not a folder" in self.refused(2, tmp_path / "list.md", "--output", tmp_path / "out")

    def test_an_option_that_does_not_exist_names_the_nearest_one_and_a_word_too_many_is_said(self, tmp_path):
        assert "--workers is the nearest" in self.refused(2, "in", "--output", tmp_path / "out", "--workrs=2")
        assert "more is one too many" in self.refused(2, "in", "--output", tmp_path / "out", "more", "words")

    def test_a_folder_without_pictures(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "notes.txt").touch()
        error = self.refused(2, tmp_path / "in", "--output", tmp_path / "out", "--model", "null")
        assert "no pictures" in error and "jpg" in error

    def test_an_unknown_model_folder(self, pictures, tmp_path):
        assert "no model" in self.refused(2, pictures, "--output", tmp_path / "out", "--model", "./nowhere")

    def test_an_unknown_model_on_the_hub(self, pictures, tmp_path):
        error = self.refused(2, pictures, "--output", tmp_path / "out", "--model", "nobody/nothing",
                             HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))  # fmt: skip
        assert "nobody/nothing" in error

    def test_a_folder_that_is_no_model(self, pictures, tmp_path):
        (tmp_path / "model").mkdir()
        assert "config.json" in self.refused(2, pictures, "--output", tmp_path / "out", "--model", tmp_path / "model")

    def test_a_model_that_is_there_but_does_not_load(self, pictures, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("{ this is no JSON")
        self.refused(5, pictures, "--output", tmp_path / "out", "--model", tmp_path / "model")

    def test_an_output_that_is_a_file(self, pictures, tmp_path):
        (tmp_path / "out").touch()
        assert "can't write" in self.refused(2, pictures, "--output", tmp_path / "out", "--model", "null")

    def test_input_and_output_are_one_folder(self, pictures):
        assert "same folder" in self.refused(2, pictures, "--output", pictures, "--model", "null")

    def test_missing_output(self, pictures):
        assert "--output" in self.refused(2, pictures)

    def test_unknown_option(self, pictures, tmp_path):
        assert "--nonsense" in self.refused(2, pictures, "--output", tmp_path / "out", "--nonsense", "1")

    def test_a_gpu_that_is_not_there(self, pictures, tmp_path):
        self.refused(2, pictures, "--output", tmp_path / "out", "--model", "null", "--gpus", "97")


def test_a_second_run_into_the_same_folder_is_refused_and_names_the_first(pictures, tmp_path):
    from tests.runs import kill_group, start, wait_for_rows

    first = start(pictures, "--output", tmp_path / "out", "--model", "null:100")
    try:
        wait_for_rows(tmp_path / "out", 1)
        second = run(pictures, "--output", tmp_path / "out", "--model", "null:100")
        assert second.returncode == 4
        assert str(first.pid) in second.stderr
    finally:
        kill_group(first)


def test_the_big_default_model_without_a_gpu_is_named_in_the_first_line_with_a_smaller_one(pictures, tmp_path):
    done = run(pictures, "--output", tmp_path / "out", "--device", "cpu", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    first = done.stdout.splitlines()[0]
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in first and "CPU" in first and "--model shapes" in first


def test_dry_run_shows_the_assignment_and_writes_nothing(pictures, tmp_path):
    done = run(pictures, "--output", tmp_path / "out", "--model", "null", "--workers", 3, "--dry-run")
    assert done.returncode == 0
    assert "100 images" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("cpu")] == ["34", "33", "33"]
    assert not (tmp_path / "out").exists()


def test_the_same_model_under_another_name_is_the_same_job_and_another_one_is_not(tmp_path):
    import shutil

    empty_pictures(tmp_path / "in", 1)
    shapes = ROOT / "caption" / "models" / "shapes"
    shutil.copytree(shapes, tmp_path / "mine")
    command = (tmp_path / "in", "--output", tmp_path / "out", "--model")
    first = run(*command, "shapes")
    assert first.returncode == 3  # an empty file: one row, a failed one
    again = run(*command, tmp_path / "mine")
    assert again.returncode == 3 and "1 done before" in again.stdout, again.stderr
    (tmp_path / "mine" / "generation_config.json").write_text("{}")
    other = run(*command, tmp_path / "mine")
    assert other.returncode == 4 and "its model was" in other.stderr and str(tmp_path / "mine") in other.stderr


def test_images_that_can_not_even_be_named_are_told_and_strict_ends_with_3(tmp_path):
    with tarfile.open(tmp_path / "torn.tar", "w") as shard:
        for name in "abc":
            shard.addfile(tarfile.TarInfo(f"{name}.jpg"))
    whole = (tmp_path / "torn.tar").read_bytes()
    (tmp_path / "torn.tar").write_bytes(whole[:512] + b"x" * 512 + whole[1024:])
    command = (tmp_path / "torn.tar", "--output", tmp_path / "out", "--model", "null")
    done = run(*command)
    assert done.returncode == 0 and "Note: " in done.stdout and "is not read" in done.stdout
    assert list(captions(tmp_path / "out")) == ["torn.tar/a.jpg"]
    assert run(*command, "--strict").returncode == 3
