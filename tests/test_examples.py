"""The settings files in scripts/examples: each is read, and does what its first line says it is for."""

import shutil

import pytest
import yaml

from caption.options import read_settings, shown_settings
from tests.runs import ROOT, captions, empty_pictures, run

CLUSTER = ROOT / "scripts" / "examples" / "ray-cluster.yaml"  # for ray up, not for --config
EXAMPLES = sorted(set((ROOT / "scripts" / "examples").glob("*.yaml")) - {CLUSTER})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_read_and_names_its_own_command(path):
    settings, origins = read_settings(["--config", str(path)], {})
    assert f"--config scripts/examples/{path.name}" in path.read_text().splitlines()[1]
    assert f"# file {path}" in shown_settings(settings, origins)


def test_ray_takes_the_example_of_a_cluster():
    util = pytest.importorskip("ray.autoscaler._private.util", reason="the package ray is not installed")
    util.validate_config(util.prepare_config(yaml.safe_load(CLUSTER.read_text())))


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [("several-prompts", (), 6), ("mixed-lengths", (), 2), ("alt-text", ("--skip-existing", ".json"), 2)],
)
def test_an_example_runs_on_a_folder(tmp_path, name, arguments, rows):
    empty_pictures(tmp_path / "in", 2)
    example = shutil.copy(ROOT / "scripts" / "examples" / f"{name}.yaml", tmp_path)
    done = run(tmp_path / "in", "--output", tmp_path / "out", "--config", example, "--model", "null", *arguments)
    assert done.returncode == 0, done.stderr
    assert len(captions(tmp_path / "out")) == rows
