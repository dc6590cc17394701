"""Settings: layers, checks, marks, and the README that is made from them."""

import subprocess
import sys

import pytest

from caption.errors import UsageError
from caption.job import make_fingerprint
from caption.options import read_settings, shown_settings
from caption.settings import GROUPS, OPTIONS, Settings, caption_settings
from tests.runs import ROOT

NEEDED = ["pictures", "--output", "out"]


def test_every_option_says_whether_it_can_change_a_caption_or_a_score():
    assert {option.mark for option in OPTIONS.values()} == {"caption", "score", "free"}
    assert all(option.group in GROUPS and option.help for option in OPTIONS.values())


def test_the_fingerprint_holds_every_caption_setting_and_no_free_one():
    settings = Settings(input="in", output="out")
    fields = make_fingerprint(settings, "fp16")
    assert set(fields) == (set(caption_settings(settings)) - {"revision", "model"}) | {"row_format"}
    assert fields["dtype"] == "fp16"
    assert not {name for name, option in OPTIONS.items() if option.mark != "caption"} & set(fields)


def test_command_line_beats_environment_beats_file_beats_default(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("batch-size: 2\nmax_new_tokens: 20\nseed: 5\n")
    environment = {"CAPTION_BATCH_SIZE": "3", "CAPTION_MAX_NEW_TOKENS": "30"}
    settings, origins = read_settings([*NEEDED, "--config", str(file), "--batch-size", "4"], environment)
    assert (settings.batch_size, settings.max_new_tokens, settings.seed, settings.max_retries) == (4, 30, 5, 3)
    assert origins["batch_size"] == "command line"
    assert origins["max_new_tokens"] == "environment CAPTION_MAX_NEW_TOKENS"
    assert origins["seed"] == f"file {file}"
    assert origins["max_retries"] == "default"
    shown = shown_settings(settings, origins)
    assert "batch_size: 4" in shown and "# environment CAPTION_MAX_NEW_TOKENS" in shown


def test_input_and_output_may_stand_in_the_file(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("input: pictures\noutput: out\nstrict: true\ngpus: [0, 2]\n")
    settings, _ = read_settings(["--config", str(file)], {})
    assert (settings.input, settings.output, settings.strict, settings.gpus) == ("pictures", "out", True, "0,2")


@pytest.mark.parametrize(
    ("text", "said"),
    [("bach_size: 2", "batch_size is the nearest"), ("batch_size: many", "no whole number"), ("- a list", "no options"),
     ("a: [", "line 2"), ("schedule: chaotic", "dynamic, round-robin, lockstep"), ("seed: true", "no whole number"),
     ("max_retries: -1", "less than 0"), ("seed: 2024-13-45", "no YAML"),
     ("seed: 0x" + "F" * 5000, "too large"), ("prompt: 0x" + "F" * 5000, "no text"), ("seed: " + "9" * 5000, "no YAML"),
     ("seed: " + "[" * 5000, "no YAML")],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named_with_the_nearest_remedy(tmp_path, text, said):
    file = tmp_path / "job.yaml"
    file.write_text(text + "\n")
    with pytest.raises(UsageError) as refused:
        read_settings([*NEEDED, "--config", str(file)], {})
    assert str(file) in str(refused.value) and said in str(refused.value)


@pytest.mark.parametrize("text", ["null", "{a: 1}", "[a, b]", "[]", "!!set {a}", "!!binary aGk=", "yes"])
@pytest.mark.parametrize("option", ["prompt", "model", "output"])
def test_a_text_is_not_made_of_what_yaml_reads_as_something_else(tmp_path, option, text):
    file = tmp_path / "job.yaml"
    file.write_text(f"{option}: {text}\n")
    with pytest.raises(UsageError, match=rf"{option}.*(no text|no value)"):
        read_settings([*NEEDED, "--config", str(file)], {})


def test_a_text_may_look_like_a_number_or_a_date_and_an_option_may_be_null(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("prompt: 5\nmodel: 2024-01-02\nrevision: 1234567890123456789012345678901234567890\nlimit:\n")
    settings, _ = read_settings([*NEEDED, "--config", str(file)], {})
    assert (settings.prompt, settings.model, settings.limit) == ("5", "2024-01-02", None)
    assert settings.revision == "1234567890123456789012345678901234567890"


@pytest.mark.parametrize(
    ("text", "gpus"), [("0", "0"), ("[0, 2]", "0,2"), ("[a, b]", "a,b"), ("[]", None), ("[null]", None),
                       ("[true]", None), ("[[0]]", None), ("[0.5]", None), ("{0: 1}", None), ("", None)]
)  # fmt: skip
def test_gpus_may_be_a_list_of_numbers_or_words(tmp_path, text, gpus):
    file = tmp_path / "job.yaml"
    file.write_text(f"gpus: {text}\n")
    if gpus is not None:
        assert read_settings([*NEEDED, "--config", str(file)], {})[0].gpus == gpus
    else:
        with pytest.raises(UsageError, match="gpus"):
            read_settings([*NEEDED, "--config", str(file)], {})


def test_what_is_done_on_flags_may_be_a_mapping_a_list_or_said_several_times(tmp_path):
    file = tmp_path / "job.yaml"
    for text in ("{refusal: fail, loop: keep}", "[refusal=fail, loop=keep]", "refusal=fail,loop=keep"):
        file.write_text(f"on_flag: {text}\n")
        assert read_settings([*NEEDED, "--config", str(file)], {})[0].on_flag == "refusal=fail,loop=keep"
    words = ["--on-flag", "refusal=fail", "--on-flag", "loop=keep"]
    assert read_settings([*NEEDED, *words], {})[0].on_flag == "refusal=fail,loop=keep"
    for wrong in ("on_flag: {refusal: drop}", "on_flag: {refusals: keep}", "format: {csv: txt}", "format: xls"):
        file.write_text(wrong + "\n")
        with pytest.raises(UsageError):
            read_settings([*NEEDED, "--config", str(file)], {})


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.type is int])
@pytest.mark.parametrize("value", [2**62, str(2**62), -(2**62) - 1, "9" * 400, 10**400])
def test_whole_numbers_that_64_bits_can_not_hold_are_refused(name, value):
    with pytest.raises(UsageError, match="too large"):
        OPTIONS[name].parse(value, name)


def test_the_largest_whole_number():
    assert OPTIONS["seed"].parse(2**62 - 1, "seed") == OPTIONS["max_pixels"].parse(str(2**62 - 1), "") == 2**62 - 1


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.type is float])
@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e999", float("inf"), float("nan"), 10**400])
def test_numbers_that_are_not_finite_are_refused(name, value):
    with pytest.raises(UsageError, match=r"no number|too large"):
        OPTIONS[name].parse(value, name)


def test_an_unknown_variable_is_refused_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"CAPTION_BATCH_SIZE is the nearest$"):
        read_settings(NEEDED, {"CAPTION_BACH_SIZE": "2"})


@pytest.mark.parametrize(
    "wrong",
    [["--batch-size", "0"], ["--batch-size", "1.5"], ["--temperature", "-1"], ["--top-p", "0"], ["--seed", "x"],
     ["--schedule", "x"], ["--bat", "3"], ["--dtype", "int8"], ["--config", "nowhere.yaml"]],
)  # fmt: skip
def test_a_wrong_value_on_the_command_line_is_a_usage_error(wrong):
    with pytest.raises(UsageError):
        read_settings([*NEEDED, *wrong], {})


def test_the_readme_shows_the_options_as_they_are():
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "update_readme.py", "--check"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr


def test_the_coordinator_imports_neither_torch_nor_transformers():
    code = "import caption.run, caption.job, sys; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def test_the_layout_in_the_readme_shows_every_module():
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("| `caption/run.py`") :]
    modules = [path.name for path in (ROOT / "caption").glob("*.py") if path.name != "__init__.py"]
    missing = [name for name in modules if f"`{name}`" not in table and f"`caption/{name}`" not in table]
    assert missing == []
