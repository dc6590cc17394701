"""Prompts: presets, files, fields in braces, several an image, one drawn by weight."""

import json
from collections import Counter

import pytest

from caption.errors import UsageError
from caption.job import make_fingerprint
from caption.options import read_settings
from caption.prompts import PRESETS, MissingFieldError, Prompts, filled, named_prompts, prompt_text
from caption.sources import open_source
from tests.runs import captions, empty_pictures, failures, run

NEEDED = ["in", "--output", "out"]


def test_a_prompt_is_a_text_a_preset_or_a_file(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffWhat is it?\r\n".encode())
    assert prompt_text("tags") == PRESETS["tags"]
    assert prompt_text(f"@{tmp_path}/p.txt") == "What is it?"
    assert prompt_text("What, {there}?") == "What, {there}?"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "@/nowhere"], "can't read the prompt in /nowhere"),
        (["--prompts", "shrot"], "no preset: they are short"),
        (["--prompts", "a b=x"], "no name"),
        (["--prompts", "a=x", "--prompts", "a=y"], "stands twice"),
        (["--prompts", "short", "--prompt", "x"], "exclude each other"),
        (["--prompts", "short,tags", "--prompt-weights", "short=1"], "different prompts: tags"),
        (["--prompts", "short", "--prompt-weights", "short=-1"], "negative"),
        (["--prompts", "short", "--prompt-weights", "short=0"], "above 0"),
        (["--prompt-weights", "short=x"], "no number"),
        (["--skip-existing", "txt"], "no ending"),
        (["--prompt", "caf\udce9"], "no UTF-8"),
        (["--prompts", "a=caf\udce9"], "no UTF-8"),
        (["--suffix", "\udce9"], "no UTF-8"),
    ],
)
def test_a_wrong_prompt_is_one_sentence(arguments, said):
    with pytest.raises(UsageError) as refused:
        read_settings([*NEEDED, *arguments], {})
    assert said in str(refused.value)


def test_prompts_from_command_line_environment_and_file_are_the_same(tmp_path):
    wanted = {"short": PRESETS["short"], "q": "Is it red, or = blue?"}
    line = ["--prompts", "short", "--prompts", "q=Is it red, or = blue?"]
    assert read_settings([*NEEDED, *line], {})[0].prompts == wanted
    (tmp_path / "job.yaml").write_text("prompts:\n  - short\n  - q: Is it red, or = blue?\n")
    assert read_settings([*NEEDED, "--config", f"{tmp_path}/job.yaml"], {})[0].prompts == wanted
    environment = {"CAPTION_PROMPTS": json.dumps(wanted)}
    assert read_settings(NEEDED, environment)[0].prompts == wanted
    assert list(named_prompts("short,tags")) == ["short", "tags"]
    for wrong in ({"a": {"b": "c"}}, {"a": True}, [["a", 1]]):
        with pytest.raises(ValueError):
            named_prompts(wrong)


def test_fields_are_filled_in_and_other_braces_stay():
    fields = {"name": "cat", "n": 0, "tags": ["a", "b"], "o": {"k": 1}}
    assert filled("A {name}, {n}, {tags}, {o}", fields) == 'A cat, 0, a, b, {"k": 1}'
    assert filled('Say {"name": {{name}}, "x": { y }}', fields) == 'Say {"name": {name}, "x": { y }}'
    assert filled("{name}", {"name": "{n}"}) == "{n}", "a value is not a prompt"
    assert filled('{{"is": "{name}", "o": {{"n": {n}}}}} {{{name}}}', fields) == '{"is": "cat", "o": {"n": 0}} {cat}'
    assert filled("{my name}, {имя}, {one {name}}", {**fields, "my name": "x", "имя": "y"}) == "x, y, {one cat}"
    for empty in ({}, {"name": ""}, {"name": None}, {"name": float("nan")}):
        with pytest.raises(MissingFieldError):
            filled("{name}", empty)


def test_draws_follow_the_weights_and_the_seed_alone():
    prompts = Prompts("", {"a": "A", "b": "B", "c": "C"}, {"a": 3, "b": 1, "c": 0})
    drawn = [prompts.of(seed)[0].name for seed in range(4000)]
    assert drawn == [prompts.of(seed)[0].name for seed in range(4000)]
    counts = Counter(drawn)
    assert counts["c"] == 0 and 0.72 < counts["a"] / 4000 < 0.78


def test_several_prompts_give_an_item_each_with_the_images_seed_and_limit_counts_images(tmp_path):
    empty_pictures(tmp_path / "in", 3)
    source = open_source(tmp_path / "in", 5, tmp_path / "out", {"prompts": {"x": "X", "y": "Y {id}"}})
    assert [(item.index, item.id, item.seed, item.prompt) for item in source.items(2)] == [
        (0, "000000.jpg#x", 5, "X"), (1, "000000.jpg#y", 5, "Y 000000.jpg"),
        (2, "000001.jpg#x", 6, "X"), (3, "000001.jpg#y", 6, "Y 000001.jpg"),
    ]  # fmt: skip


def test_a_run_with_several_prompts_and_a_missing_field(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"image": "a.jpg", "kind": "cat"}\n{"image": "b.jpg"}\n{"image": "c.jpg", "prompt": "Own {kind}"}\n'
    )
    out = tmp_path / "out"
    done = run(
        tmp_path / "rows.jsonl", "--output", out, "--model", "null", "--prompts", "short", "--prompts", "k=A {kind}?"
    )
    assert done.returncode == 0, done.stderr
    rows = captions(out)
    assert set(rows) == {"a.jpg#short", "a.jpg#k", "b.jpg#short", "c.jpg"}
    assert rows["a.jpg#k"]["prompt"] == "A cat?" and rows["a.jpg#k"]["prompt_name"] == "k"
    assert rows["c.jpg"]["prompt"] == "Own {kind}"
    failed = failures(out)["b.jpg#k"]
    assert failed["error"] == "MissingField" and "kind" in failed["message"]


def test_list_prompts_prints_each_preset():
    done = run("--list-prompts")
    assert done.returncode == 0
    assert all(name in done.stdout for name in PRESETS)


def test_the_text_of_a_prompt_file_is_in_the_fingerprint(tmp_path):
    for text in ("One?", "Two?"):
        (tmp_path / "p.txt").write_text(text)
        settings, _ = read_settings([*NEEDED, "--prompt", f"@{tmp_path}/p.txt"], {})
        assert make_fingerprint(settings, "fp32")["prompt"] == text
