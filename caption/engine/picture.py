"""The size at which a picture goes to the processor."""

import math

from PIL import Image

# Qwen's processors refuse more than 200 to 1, counted after a rounding of their own.
MAX_ASPECT = 100
# An array 1 or 3 pixels high can be taken for one with its channels first.
MIN_SIDE = 4


def fit(image: Image.Image, max_pixels: int | None = None) -> Image.Image:
    """Return the picture at a size that every processor takes: itself, where its size is fine already.

    More than `max_pixels` are scaled down to that many, aspect kept. Only a picture thinner than MAX_ASPECT to 1
    changes its shape: it becomes MAX_ASPECT to 1, of the same area. Only one with a side under MIN_SIDE is enlarged,
    until that side has it. Nothing is cut off, and no border is added.
    """
    long, short = max(image.size), min(image.size)
    area, aspect = long * short, long / short
    budget = max_pixels or area
    if area <= budget and aspect <= MAX_ASPECT and short >= MIN_SIDE:
        return image
    aspect = min(aspect, MAX_ASPECT)
    exact = max(math.sqrt(min(area, budget) / aspect), MIN_SIDE)  # the short side
    size = (math.floor(exact * aspect), math.floor(exact))
    return image.resize(size if image.width >= image.height else size[::-1], Image.Resampling.BICUBIC)
