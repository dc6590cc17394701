"""fp16 that overflows: noticed, the job goes on in bf16, and every caption is right."""

import json
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from tests.runs import ROOT, run


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """The embedded model with an MLP whose inner numbers are beyond fp16 and whose results are the same."""
    folder = tmp_path_factory.mktemp("narrow") / "model"
    shutil.copytree(ROOT / "caption" / "models" / "shapes", folder)
    file = next(folder.glob("*.safetensors"))
    weights = {name: weight.float() for name, weight in load_file(file).items()}
    for name in [name for name in weights if "language_model" in name and ".layers.1.mlp." in name]:
        weights[name] *= {"up_proj": 1e6, "down_proj": 1e-6}.get(name.split(".")[-2], 1)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "in"
    script = ROOT / "scripts" / "draw_shapes.py"
    subprocess.run([sys.executable, script, folder, "--count", "12", "--seed", "5"], check=True, capture_output=True)
    return folder


def test_a_job_that_overflows_goes_on_in_bf16_and_says_so_everywhere(narrow, scenes, tmp_path):
    out = tmp_path / "out"
    command = (scenes, "--output", out, "--model", narrow, "--dtype", "fp16", "--device", "cpu")
    done = run(*command, "--workers", "2", "--limit", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fp16 is too narrow" in done.stdout + done.stderr
    assert json.loads((out / "run.json").read_text())["runs"][-1]["precision"] == "bf16"
    done = run(*command, "--workers", "1")
    assert done.returncode == 0 and "fp16 is too narrow" not in done.stdout + done.stderr
    assert "bf16" in done.stdout, "the next run begins with it"
    rows = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    truth = {row["image"]: row["caption"] for row in map(json.loads, (scenes / "truth.jsonl").read_text().splitlines())}
    assert len(rows) == len({row["id"] for row in rows}) == 12
    assert all(row["flags"] == ["bf16"] and row["attempts"] == 1 for row in rows)
    assert sum(row["caption"] == truth[row["id"]] for row in rows) >= 11
