"""The command with the embedded model: each caption is the truth of its own picture."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image

from tests.runs import ROOT, captions, failures, kill_group, run, start, wait_for_rows

SHAPES = ("--model", "shapes")
RIGHT = 0.97  # of so few pictures; the model's card has the figure


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder of 36 scenes, and what stands on each."""
    folder = tmp_path_factory.mktemp("scenes")
    draw = ROOT / "scripts" / "draw_shapes.py"
    subprocess.run([sys.executable, draw, folder, "--count", "36", "--seed", "77"], check=True, capture_output=True)
    truth = {row["image"]: row["caption"] for row in map(json.loads, (folder / "truth.jsonl").open())}
    (folder / "truth.jsonl").unlink()
    return folder, truth


def share_right(out, truth):
    rows = captions(out)
    assert set(rows) <= set(truth) and rows
    return sum(row["caption"] == truth[id] for id, row in rows.items()) / len(rows)


def test_each_caption_stands_on_its_own_picture_and_bad_pictures_cost_no_neighbour(scenes, tmp_path):
    pictures, truth = scenes
    shutil.copytree(pictures, tmp_path / "in")
    deeper = tmp_path / "in" / "deeper" / "still"
    deeper.mkdir(parents=True)
    moved = sorted(truth)[0]
    (tmp_path / "in" / moved).rename(deeper / moved)
    truth = {f"deeper/still/{id}" if id == moved else id: text for id, text in truth.items()}
    (deeper / "loop").symlink_to(tmp_path / "in")
    bad = tmp_path / "in" / "deeper"
    (bad / "zero.png").touch()
    (bad / "text.jpg").write_text("This is no picture.\n")
    whole = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(whole, "PNG")
    (bad / "cut.png").write_bytes(whole.getvalue()[:9000])
    (bad / "notes.md").touch()

    done = run(tmp_path / "in", "--output", tmp_path / "out", *SHAPES)
    assert done.returncode == 0, done.stderr
    assert len(captions(tmp_path / "out")) == 36
    assert share_right(tmp_path / "out", truth) >= RIGHT
    assert {id: row["error"] for id, row in failures(tmp_path / "out").items()} == {
        "deeper/zero.png": "EmptyFile", "deeper/text.jpg": "NotAnImage", "deeper/cut.png": "Truncated",
    }  # fmt: skip
    assert all(row["message"] and row["attempts"] == 1 for row in failures(tmp_path / "out").values())
    assert "36 captioned" in done.stdout and "Ignored 1 other file." in done.stdout
    last = done.stdout.splitlines()[-1]
    assert "3 failed" in last and "shapes" in last and "--model" in last


def test_a_kill_and_a_ctrl_c_in_the_middle_change_no_caption(scenes, tmp_path):
    pictures, truth = scenes
    command = (pictures, "--output", tmp_path / "out", *SHAPES, "--batch-size", 4, "--checkpoint-every", 5)
    first = start(*command)
    wait_for_rows(tmp_path / "out", 4)
    kill_group(first)
    second = start(*command)
    wait_for_rows(tmp_path / "out", 12)
    os.killpg(second.pid, signal.SIGINT)
    stdout, stderr = second.communicate(timeout=60)
    assert second.returncode in (130, 0), stderr
    assert "Traceback" not in stdout + stderr
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert set(captions(tmp_path / "out")) == set(truth)
    assert share_right(tmp_path / "out", truth) >= RIGHT


def words(out):
    return {id: (row["caption"], row["tokens"], row["seed"]) for id, row in captions(out).items()}


def test_the_same_words_with_any_workers_schedule_and_batch_size_and_after_a_kill(scenes, tmp_path):
    """Greedy and sampled, in fp32. A killed run goes on with other settings than it began with."""
    one = ("--workers", 1, "--batch-size", 8)
    two = ("--workers", 2, "--batch-size", 3, "--schedule", "round-robin")
    three = ("--workers", 3, "--batch-size", 1, "--schedule", "lockstep")
    sampled = ("--temperature", "2", "--seed", "11", "--max-new-tokens", "24")
    found = []
    for options, begun, ended in (((), two, one), (sampled, three, two)):
        command = (scenes[0], *SHAPES, "--dtype", "fp32", "--limit", 16, *options, "--output")
        whole, killed = tmp_path / f"whole{len(found)}", tmp_path / f"killed{len(found)}"
        done = run(*command, whole, *one)
        assert done.returncode == 0, done.stderr
        first = start(*command, killed, *begun)
        wait_for_rows(killed, 3, timeout=180)  # three workers import torch
        kill_group(first)
        before = (killed / "captions.jsonl").read_bytes()
        done = run(*command, killed, *ended, "--batch-size", 5)
        assert done.returncode == 0, done.stderr
        assert (killed / "captions.jsonl").read_bytes().startswith(before[: before.rfind(b"\n") + 1])
        found.append(words(whole))
        assert len(found[-1]) == 16 and words(killed) == found[-1]
    assert found[0] != found[1]


def test_a_caption_cut_at_the_token_limit_says_so(scenes, tmp_path):
    done = run(scenes[0], "--output", tmp_path / "out", *SHAPES, "--max-new-tokens", 3, "--limit", 4)
    assert done.returncode == 0, done.stderr
    for row in captions(tmp_path / "out").values():
        assert (row["finish_reason"], row["tokens"], row["flags"]) == ("length", 3, ["cut-off"])
    assert "4 cut-off" in done.stdout


def test_a_picture_that_crashes_its_decoder_fails_alone(scenes, tmp_path):
    pictures, truth = scenes
    (tmp_path / "in").mkdir()
    for name in sorted(truth)[:12]:
        shutil.copy(pictures / name, tmp_path / "in" / name)
    shutil.copy(pictures / min(truth), tmp_path / "in" / f"poison-{min(truth)}")
    done = run(tmp_path / "in", "--output", tmp_path / "out", *SHAPES, "--max-retries", 1, "--loaders", 2,
               fault="decoder")  # fmt: skip
    assert done.returncode == 0, done.stderr
    [failed] = failures(tmp_path / "out").values()
    assert failed["id"].startswith("poison-") and failed["attempts"] == 2
    assert (failed["error"], "SIGSEGV" in failed["message"]) == ("DecoderCrashed", True)
    assert len(captions(tmp_path / "out")) == 12 and share_right(tmp_path / "out", truth) > 0.9
    assert {row["attempts"] for row in captions(tmp_path / "out").values()} == {1}


@pytest.mark.gpu
def test_fp16_on_a_gpu_captions_like_fp32_on_the_cpu(scenes, tmp_path):
    pictures, truth = scenes
    done = run(pictures, "--output", tmp_path / "out", *SHAPES, "--device", "cuda", "--num-gpus", 1)
    assert done.returncode == 0, done.stderr
    assert "fp16 on gpu0" in done.stdout
    assert share_right(tmp_path / "out", truth) >= RIGHT


def test_a_cut_caption_is_tried_again_until_it_is_whole(scenes, tmp_path):
    pictures, truth = scenes
    cut = ("--max-new-tokens", "4", "--on-flag", "cut-off=retry", "--max-retries", "5")
    done = run(pictures, "--output", tmp_path / "out", *SHAPES, *cut, "--limit", 12)
    assert done.returncode == 0, done.stderr
    assert share_right(tmp_path / "out", truth) > 0.9
    rows = captions(tmp_path / "out").values()
    assert len(rows) == 12
    assert all(row["retries"][0] == {"reason": "cut-off", "changed": "max_new_tokens 4 -> 8"} for row in rows)


def test_a_row_of_a_manifest_decides_on_its_own_length_and_the_rest_is_carried_through(scenes, tmp_path):
    folder, truth = scenes
    names = sorted(truth)[:3]
    rows = [{"image": name, "split": "train", "max_new_tokens": tokens} for name, tokens in zip(names, (2, "3", None))]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run(tmp_path / "rows.jsonl", "--image-root", folder, "--output", tmp_path / "out", *SHAPES)
    assert done.returncode == 0, done.stderr
    made = captions(tmp_path / "out")
    assert [made[name]["tokens"] for name in names[:2]] == [2, 3]
    assert [made[name]["finish_reason"] for name in names] == ["length", "length", "stop"]
    assert all(made[name]["extra"] == {"split": "train"} for name in names)
