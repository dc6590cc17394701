"""Settings: layers, checks, marks, and the README that is made from them."""

import subprocess
import sys

import pytest

from caption.errors import UsageError
from caption.job import make_fingerprint
from caption.model import Model
from caption.options import read_settings, shown_settings
from caption.settings import GROUPS, OPTIONS, Settings, caption_settings
from tests.runs import ROOT

NEEDED = ["pictures", "--output", "out"]


def test_every_option_says_whether_it_can_change_a_caption():
    assert {option.mark for option in OPTIONS.values()} == {"caption", "free"}
    assert all(option.group in GROUPS and option.help for option in OPTIONS.values())


def test_the_fingerprint_holds_every_caption_setting_and_no_free_one():
    settings = Settings(input="in", output="out")
    fields = make_fingerprint(settings, Model("shapes", "folder", "content 1", 0.0), "fp16")
    assert set(fields) == (set(caption_settings(settings)) - {"revision"}) | {"format"}
    assert fields["dtype"] == "fp16" and "content 1" in fields["model"]
    assert not {name for name, option in OPTIONS.items() if option.mark == "free"} & set(fields)


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
    [("bach_size: 2", "did you mean batch_size?"), ("batch_size: many", "no whole number"), ("- a list", "no options"),
     ("a: [", "line 2"), ("schedule: chaotic", "dynamic, round-robin, lockstep"), ("seed: true", "no whole number"),
     ("max_retries: -1", "less than 0")],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named_with_the_nearest_remedy(tmp_path, text, said):
    file = tmp_path / "job.yaml"
    file.write_text(text + "\n")
    with pytest.raises(UsageError) as refused:
        read_settings([*NEEDED, "--config", str(file)], {})
    assert str(file) in str(refused.value) and said in str(refused.value)


def test_an_unknown_variable_is_refused_with_the_nearest_one():
    with pytest.raises(UsageError, match="CAPTION_BATCH_SIZE"):
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
