"""The simulation of scripts/simulate_scale.py stays near what was measured on GPUs, and does each image once."""

import sys

import pytest

from tests.runs import ROOT, captions

sys.path.insert(0, str(ROOT))

from scripts.bench_workers import write_list
from scripts.simulate_scale import CALL, FIRST, MEASURED, lengths
from scripts.simulated_cluster import Engine, run


@pytest.mark.parametrize(("gpus", "images", "measured"), MEASURED)
def test_a_simulated_machine_takes_as_long_as_a_real_one(tmp_path, gpus, images, measured):
    found = run(Engine(first=FIRST), gpus, write_list(tmp_path, images), images, lengths(960), CALL)
    assert found.rate == pytest.approx(measured, rel=0.05)
    assert len(captions(tmp_path / "out")) == images


def test_what_died_with_a_simulated_machine_is_done_again(tmp_path):
    images = 6000
    deaths = {"deaths": {10.0: range(2)}, "away": 5.0}
    found = run(Engine(), 4, write_list(tmp_path, images), images, lengths(960), CALL, **deaths)
    assert found.again > 900 and found.lost > 10
    assert len(captions(tmp_path / "out")) == images
    assert found.seconds > 10 + (images - 10 * 57 * 4) / (57 * 4) + 1  # two of four were away for five seconds
