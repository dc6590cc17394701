"""The command with LoRA adapters: each image in the language of its own, and what can't be one in a sentence."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

peft = pytest.importorskip("peft")

from caption import CaptionPool  # noqa: E402
from tests.runs import ROOT, captions, empty_pictures, failures, kill_group, run, start, wait_for_rows  # noqa: E402

sys.path.insert(0, str(ROOT / "scripts"))

import draw_shapes  # noqa: E402
import eval_shapes  # noqa: E402
import french  # noqa: E402

FRENCH = ROOT / "caption" / "models" / "shapes-fr"
SHAPES = ("--model", "shapes")
RIGHT = 0.95  # of so few pictures; the cards of model and adapter have the figures
COUNT, SEED = 40, 78


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder of scenes, and what stands on each in English and in French."""
    folder = tmp_path_factory.mktemp("scenes")
    draw = ROOT / "scripts" / "draw_shapes.py"
    subprocess.run([sys.executable, draw, folder, "--count", str(COUNT), "--seed", str(SEED)], check=True)
    (folder / "truth.jsonl").unlink()
    drawn = {name: scene for name, scene, _ in (draw_shapes.describe(SEED, index) for index in range(COUNT))}
    english = {name: draw_shapes.caption(scene) for name, scene in drawn.items()}
    return folder, {"en": english, "fr": {name: french.caption(scene) for name, scene in drawn.items()}}


def table(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mixed(folder, names, where):
    """A table in which the languages take turns; each way to ask for one stands in it. Returns it and the languages."""
    ways = (("fr", {"lora": "adapters/fr"}), ("en", {}), ("fr", {"lora": "shapes-fr", "lora_scale": 1}),
            ("en", {"lora": "adapters/fr", "lora_scale": 0}))  # fmt: skip
    shutil.copytree(FRENCH, where / "adapters" / "fr")
    rows = [{"image": os.path.join(folder, name), "id": name, **ways[i % 4][1]} for i, name in enumerate(names)]
    return table(where / "rows.jsonl", rows), {name: ways[i % 4][0] for i, name in enumerate(names)}


def share_right(out, truth, languages):
    rows = captions(out)
    assert set(rows) == set(languages)
    return sum(row["caption"] == truth[languages[id]][id] for id, row in rows.items()) / len(rows)


def totals(out):
    return json.loads((out / "run.json").read_text())["runs"][-1]["totals"]


def test_the_run_s_adapter_changes_the_language_of_each_caption_which_peft_s_own_generate_makes_too(scenes, tmp_path):
    folder, truth = scenes
    done = run(folder, "--output", tmp_path / "out", *SHAPES, "--lora", "shapes-fr")
    assert done.returncode == 0, done.stderr
    assert share_right(tmp_path / "out", truth, dict.fromkeys(truth["fr"], "fr")) >= RIGHT
    assert "shapes with the LoRA adapter shapes-fr" in done.stdout
    made = captions(tmp_path / "out")
    assert not any("lora" in row for row in made.values())
    captioner = eval_shapes.Captioner(FRENCH.parent / "shapes")
    captioner.model = peft.PeftModel.from_pretrained(captioner.model, FRENCH)
    for id in sorted(made)[:8]:
        with Image.open(folder / id) as picture:
            assert captioner.caption([picture.convert("RGB")]) == [made[id]["caption"]]


def test_a_pool_captions_with_the_adapter_it_was_made_with(scenes):
    names = sorted(scenes[1]["fr"])[:4]
    with CaptionPool(model="shapes", device="cpu", lora="shapes-fr") as pool:
        made = [result.caption for result in pool.caption([scenes[0] / name for name in names])]
    assert made == [scenes[1]["fr"][name] for name in names]


@pytest.mark.parametrize("machine", [("--batch-size", 4), ("--workers", 2, "--schedule", "round-robin")])
def test_each_image_of_a_table_has_the_language_of_its_own_adapter(scenes, tmp_path, machine):
    folder, truth = scenes
    rows, languages = mixed(folder, sorted(truth["en"]), tmp_path)
    done = run(rows, "--output", tmp_path / "out", *SHAPES, *machine)
    assert done.returncode == 0, done.stderr
    assert share_right(tmp_path / "out", truth, languages) >= RIGHT
    made = captions(tmp_path / "out")
    assert {made[name].get("lora") for name in languages} == {None, "adapters/fr", "shapes-fr"}
    if "--workers" not in machine:
        assert totals(tmp_path / "out")["adapter_loads"] == 2
    assert all(made[name].get("lora_scale") == 0 for name, row in made.items() if row.get("lora") == "adapters/fr"
               and languages[name] == "en")  # fmt: skip


def test_a_table_may_ask_for_less_than_the_adapter_of_the_run(scenes, tmp_path):
    """Nothing was kept of the bare model when the run's adapter was merged."""
    folder, truth = scenes
    names = sorted(truth["en"])[:12]
    languages = {name: "en" if i % 2 else "fr" for i, name in enumerate(names)}
    rows = [{"image": name, **({"lora_scale": 0} if languages[name] == "en" else {})} for name in names]
    shown = table(tmp_path / "rows.jsonl", rows)
    done = run(shown, "--image-root", folder, "--output", tmp_path / "out", *SHAPES, "--lora", FRENCH)
    assert done.returncode == 0, done.stderr
    assert share_right(tmp_path / "out", truth, languages) >= RIGHT
    assert totals(tmp_path / "out")["adapter_loads"] == 0


def test_killed_in_a_stretch_it_goes_on_and_each_image_has_the_language_of_its_own(scenes, tmp_path):
    folder, truth = scenes
    rows, languages = mixed(folder, sorted(truth["en"]), tmp_path)
    command = (rows, "--output", tmp_path / "out", *SHAPES, "--batch-size", 2, "--checkpoint-every", 3)
    first = start(*command)
    wait_for_rows(tmp_path / "out", 13)  # in the second stretch: ten are of the first
    kill_group(first)
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert ", 0 done before" not in done.stdout
    assert share_right(tmp_path / "out", truth, languages) >= RIGHT


@pytest.mark.parametrize("count", [300, 4000])
def test_an_adapter_is_loaded_once_a_stretch(tmp_path, count):
    """Three adapters and the bare model take turns, image by image."""
    names = empty_pictures(tmp_path / "in", count)
    for adapter in "abc":
        shutil.copytree(FRENCH, tmp_path / adapter)
    ways = ({}, {"lora": "a"}, {"lora": "b"}, {"lora": "c", "lora_scale": 0.5})
    rows = [{"image": name, **ways[i % 4]} for i, name in enumerate(names)]
    shown = table(tmp_path / "rows.jsonl", rows)
    done = run(shown, "--image-root", tmp_path / "in", "--output", tmp_path / "out", "--model", "null:1")
    assert done.returncode == 0, done.stderr
    made = captions(tmp_path / "out")
    assert len(made) == count and all(row["caption"] == id for id, row in made.items())
    assert totals(tmp_path / "out")["adapter_loads"] == 3
    assert "Adapters: loaded 3 times" in done.stdout


def test_adapters_of_a_table_that_can_t_be_used_cost_only_their_own_images(scenes, tmp_path):
    folder, truth = scenes
    kohya, other = {"lora_unet_x.lora_down.weight": 4}, {"base_model.model.x.lora_A.weight": 4,
                                                         "base_model.model.x.lora_B.weight": 4}  # fmt: skip
    write_tensors(tmp_path / "kohya.safetensors", kohya)
    write_tensors(tmp_path / "other.safetensors", other)
    (tmp_path / "old.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "empty").mkdir()
    said = {"nowhere": "there is no LoRA", "kohya.safetensors": "kohya", "other.safetensors": "does not fit Llava",
            "old.bin": "pickle", "empty": "adapter_config.json"}  # fmt: skip
    names = sorted(truth["en"])[:12]
    adapters = [*said, *said, None, "shapes-fr"]
    rows = [{"image": name, "lora": adapter} for name, adapter in zip(names, adapters)]
    shown = table(tmp_path / "rows.jsonl", rows)
    done = run(shown, "--image-root", folder, "--output", tmp_path / "out", *SHAPES)
    assert done.returncode == 0, done.stderr
    failed = failures(tmp_path / "out")
    assert set(failed) == set(names[:10])
    for name, adapter in zip(names, adapters[:10]):
        assert failed[name]["error"] == "AdapterUnusable" and said[adapter] in failed[name]["message"]
        assert failed[name]["attempts"] == 1
    assert captions(tmp_path / "out")[names[10]]["caption"] == truth["en"][names[10]]
    assert captions(tmp_path / "out")[names[11]]["caption"] == truth["fr"][names[11]]


def write_tensors(path: Path, sizes: dict[str, int]) -> None:
    """A safetensors file of square fp32 tensors of zeros."""
    header, end = {}, 0
    for name, size in sizes.items():
        header[name] = {"dtype": "F32", "shape": [size, size], "data_offsets": [end, end + 4 * size * size]}
        end += 4 * size * size
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(end))


def broken_adapter(kind: str, path: Path) -> Path:
    if kind == "nowhere":
        return path / "nowhere"
    if kind in ("kohya", "misfit"):
        names = ("lora_te_x.lora_up.weight",) if kind == "kohya" else ("x.lora_A.weight", "x.lora_B.weight")
        write_tensors(path / "one.safetensors", dict.fromkeys(names, 4))
        return path / "one.safetensors"
    shutil.copytree(FRENCH, path / "adapter")
    weights = path / "adapter" / "adapter_model.safetensors"
    if kind == "pickle":
        weights.rename(path / "adapter" / "adapter_model.bin")
    elif kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif kind == "loha":
        (path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LOHA"}')
    return path / "adapter"


@pytest.mark.parametrize(
    ("kind", "said"),
    [("nowhere", "there is no LoRA adapter"), ("kohya", "kohya"), ("pickle", "pickle"), ("cut", "cut off"),
     ("loha", "only LoRA"), ("misfit", "does not fit")],
)  # fmt: skip
def test_an_adapter_of_the_run_that_can_t_be_used_is_one_sentence_and_exit_code_2(scenes, tmp_path, kind, said):
    adapter = broken_adapter(kind, tmp_path)
    done = run(scenes[0], "--output", tmp_path / "out", *SHAPES, "--lora", adapter)
    assert done.returncode == 2, done.stderr
    [sentence] = [line for line in done.stderr.splitlines() if "images/s" not in line and "0/40" not in line]
    assert said in sentence and str(tmp_path) in sentence and not captions(tmp_path / "out")


def test_the_same_adapter_elsewhere_is_the_same_job_and_another_scale_or_content_is_not(scenes, tmp_path):
    shutil.copytree(FRENCH, tmp_path / "moved")
    command = (scenes[0], "--output", tmp_path / "out", "--model", "null", "--limit")
    assert run(*command, 4, "--lora", "shapes-fr").returncode == 0
    moved = run(*command, 8, "--lora", tmp_path / "moved" / "adapter_model.safetensors")
    assert moved.returncode == 0 and "4 captioned" in moved.stdout and "4 done before" in moved.stdout
    for changed, field in ((("--lora", "shapes-fr", "--lora-scale", 0.5), "lora scale"), ((), "lora")):
        done = run(*command, 8, *changed)
        assert done.returncode == 4 and f"its {field} was" in done.stderr
    config = tmp_path / "moved" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": ', '"lora_alpha": 1'))
    done = run(*command, 8, "--lora", tmp_path / "moved")
    assert done.returncode == 4 and "its lora was 'content" in done.stderr
    assert run(*command, 8, "--lora", tmp_path / "moved", "--dry-run").returncode == 4


def test_without_peft_a_run_that_needs_it_says_how_to_get_it(scenes, tmp_path):
    one = run(scenes[0], "--output", tmp_path / "one", *SHAPES, "--lora", "shapes-fr", fault="no peft")
    shown = table(tmp_path / "rows.jsonl", [{"image": sorted(scenes[1]["en"])[0], "lora": "shapes-fr"}])
    other = run(shown, "--image-root", scenes[0], "--output", tmp_path / "other", *SHAPES, fault="no peft")
    for done in (one, other):
        assert done.returncode == 2, done.stderr
        assert "pip install peft" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_scale_that_is_no_number_is_a_failed_row(tmp_path):
    empty_pictures(tmp_path / "in", 2)
    rows = [{"image": "000000.jpg", "lora_scale": "strong"}, {"image": "000001.jpg", "lora_scale": "0.5"}]
    shown = table(tmp_path / "rows.jsonl", rows)
    done = run(shown, "--image-root", tmp_path / "in", "--output", tmp_path / "out", "--model", "null")
    assert done.returncode == 0, done.stderr
    assert failures(tmp_path / "out")["000000.jpg"]["error"] == "BadRow"
    assert captions(tmp_path / "out")["000001.jpg"]["lora_scale"] == 0.5
