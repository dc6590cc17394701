"""The size at which pictures go to the processor."""

import numpy as np
import pytest
from PIL import Image

from caption.engine.picture import MAX_ASPECT, MIN_SIDE, fit


@pytest.mark.parametrize("size", [(4, 4), (640, 480), (400, 4), (4, 400)])
def test_a_fine_size_is_left_alone(size):
    image = Image.new("RGB", size)
    assert fit(image) is image
    assert fit(image, size[0] * size[1]) is image


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (5000, 200), (1001, 999)])
def test_a_budget_keeps_the_aspect(size):
    width, height = fit(Image.new("RGB", size), 250_000).size
    assert 0.98 * 250_000 <= width * height <= 250_000
    assert width / height == pytest.approx(size[0] / size[1], rel=0.02)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (3, 200), (1, 2500), (2500, 1), (60_000, 2), (2, 60_000)])
@pytest.mark.parametrize("budget", [None, 1000])
def test_extreme_shapes_are_tamed(size, budget):
    width, height = fit(Image.new("RGB", size), budget).size
    assert min(width, height) >= MIN_SIDE
    assert max(width, height) / min(width, height) < 1.3 * MAX_ASPECT  # whole pixels
    assert width * height <= max(size[0] * size[1], MIN_SIDE**2 * MAX_ASPECT)
    assert (width >= height) == (size[0] >= size[1])


def test_a_stretched_line_keeps_its_colours_in_order():
    ramp = np.linspace(0, 255, 2500).astype(np.uint8)
    line = Image.fromarray(np.repeat(ramp[None, :, None], 3, 2))
    tamed = fit(line)
    assert tamed.size == (500, 5)
    wide = np.asarray(tamed.resize(line.size))[0, :, 0]
    assert np.abs(wide.astype(int) - ramp).max() < 4
