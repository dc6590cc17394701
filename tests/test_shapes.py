"""The drawn scenes and the embedded model `shapes`: by it other tests know that a caption stands on its own picture."""

import io
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
MODEL = ROOT / "caption" / "models" / "shapes"
sys.path.insert(0, str(SCRIPTS))

import draw_shapes  # noqa: E402
from draw_shapes import COLOURS, KINDS, TEXTURES, Scene, Shape, caption, describe, draw  # noqa: E402

SHAPE = rf"(small|large) ({'|'.join(COLOURS)}) ({'|'.join(KINDS)})"
PLACE = r" (at the (top|bottom)( left| right)?|on the (left|right))"
RELATION = r"(left of|above|above and (left|right) of)"
GROUND = rf"(, on a ({'|'.join(TEXTURES)}) ground)?"
OTHERS = rf" {RELATION} a {SHAPE}(, which is {RELATION} a {SHAPE}){{0,2}}"
GRAMMAR = re.compile(rf"A {SHAPE}({PLACE}|{OTHERS})?{GROUND}\.")


def command(*arguments: object) -> subprocess.CompletedProcess:
    script = SCRIPTS / "draw_shapes.py"
    return subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True)


# ---- the scenes


def test_same_seed_draws_same_bytes_and_another_seed_draws_others(tmp_path):
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        draw_shapes.draw_folder(tmp_path / folder, seed, 12)
    a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in "abc")
    assert a == b
    assert a.keys() & c.keys() == {"truth.jsonl"}


def test_truth_names_every_picture_and_the_folder_holds_nothing_else(tmp_path):
    result = command(tmp_path, "--count", 9, "--seed", 1)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["image"] for row in rows} | {"truth.jsonl"} == {path.name for path in tmp_path.iterdir()}
    assert all(row.keys() == {"image", "caption"} for row in rows)
    assert len(rows) == 9


@pytest.mark.parametrize("count", [15, 64, 1000])
def test_each_number_of_shapes_is_a_fifth_and_half_the_grounds_are_textured(count):
    scenes = [describe(3, index)[1] for index in range(count)]
    numbers = Counter(len(scene.shapes) for scene in scenes)
    assert all(numbers[n] >= 0.2 * count for n in (1, 2, 3, 4))
    assert abs(sum(scene.texture is not None for scene in scenes) - count / 2) <= 2


def test_captions_follow_the_grammar_with_4_to_40_words():
    captions = [caption(describe(4, index)[1]) for index in range(2000)]
    assert [text for text in captions if not GRAMMAR.fullmatch(text)] == []
    lengths = [len(text.split()) for text in captions]
    assert min(lengths) == 4
    assert 30 <= max(lengths) <= 40


def test_relations_follow_from_the_cells():
    a, b = Shape("small", "red", "circle", 0, 2), Shape("large", "blue", "star", 1, 1)
    c, d = Shape("small", "green", "ring", 1, 2), Shape("large", "pink", "cross", 2, 2)
    assert caption(Scene((a, b, c, d), "dotted")) == (
        "A small red circle above and right of a large blue star, which is left of a small green ring, "
        "which is above a large pink cross, on a dotted ground."
    )
    assert caption(Scene((b,), None)) == "A large blue star."
    assert caption(Scene((a,), None)) == "A small red circle at the top right."


def test_names_sizes_and_formats_tell_nothing_about_the_caption():
    described = [describe(8, index) for index in range(4000)]
    traits = (lambda scene: len(scene.shapes), lambda scene: scene.texture is None, lambda scene: scene.shapes[0].size)
    for trait in traits:
        groups = defaultdict(list)
        for name, scene, form in described:
            clues = (form.width, form.height, form.width > form.height, form.extension == "jpg", name < "8")
            groups[trait(scene)].append(clues)
        for clue, tolerance in ((0, 25), (1, 25), (2, 0.06), (3, 0.06), (4, 0.06)):
            means = [mean(row[clue] for row in rows) for rows in groups.values()]
            assert max(means) - min(means) < tolerance, clue


def test_pictures_span_sizes_orientations_and_formats_and_carry_no_metadata():
    forms = [describe(9, index)[2] for index in range(1000)]
    sides = [side for form in forms for side in (form.width, form.height)]
    assert 96 <= min(sides) < 110 and 950 < max(sides) <= 1024
    assert {(form.width > form.height) - (form.width < form.height) for form in forms} == {-1, 0, 1}
    assert {form.extension for form in forms} == {"jpg", "png", "webp"}
    for index in range(20):
        with Image.open(io.BytesIO(draw(9, index)[1])) as image:
            image.load()
            assert not image.getexif()
            assert image.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "loop", "background"} | {
                "timestamp", "duration"
            }  # fmt: skip


def test_wrong_use_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    command(tmp_path / "other", "--count", 2, "--seed", 1)
    for arguments in (
        (tmp_path / "new", "--count", 0),
        (tmp_path / "file", "--count", 2),
        (tmp_path / "other", "--count", 2, "--seed", 2),
    ):
        result = command(*arguments)
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1 and result.stderr.rstrip().endswith(".")


def test_training_scenes_are_out_of_reach_of_any_seed():
    drawn = {draw_shapes.stream("draw", seed, 0, "all").integers(1 << 60) for seed in range(100)}
    assert draw_shapes.stream("train", 0, 0, "all").integers(1 << 60) not in drawn


# ---- the model


@pytest.fixture(scope="module")
def captioner():
    import torch
    from eval_shapes import Captioner

    return Captioner(MODEL, "cpu", torch.float32)


def fresh(seed: int, count: int) -> tuple[list[Image.Image], list[str]]:
    pairs = [draw(seed, index)[1:] for index in range(count)]
    return [Image.open(io.BytesIO(data)).convert("RGB") for data, _ in pairs], [truth for _, truth in pairs]


def test_model_folder_is_small_and_safetensors_only():
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert [path.name for path in files if path.suffix == ".safetensors"] == ["model.safetensors"]


def test_model_loads_as_stock_classes_and_in_fp32_unless_told_otherwise():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    assert AutoModelForImageTextToText.from_pretrained(MODEL).dtype.itemsize == 4
    processor = AutoProcessor.from_pretrained(MODEL)
    assert type(processor).__module__.startswith("transformers.")
    assert processor.tokenizer.padding_side == "left"


def test_fresh_scenes_are_captioned_exactly(captioner):
    images, truths = fresh(2024, 64)
    captions = captioner.caption(images[:32]) + captioner.caption(images[32:])
    assert captions == truths


@pytest.mark.parametrize("prompt", ["", "Décris cette image.", "A large red circle.", "Write a caption. " * 12])
def test_the_prompt_does_not_change_the_caption(captioner, prompt):
    images, truths = fresh(2026, 6)
    assert captioner.caption(images, prompt) == truths
