"""The size at which a picture goes to the processor."""

import math

from PIL import Image

# Processors refuse thinner ones (Qwen: above 200 to 1) or round a side down to nothing (LLaVA-Next's grid).
MAX_ASPECT = 20
# Below, transformers can take the height for the number of channels (1 or 3), and patches get no pixel.
MIN_SIDE = 28


def fit(image: Image.Image, max_pixels: int | None = None) -> Image.Image:
    """Return the picture at a size that every processor takes, itself where its size is fine already.

    A picture of more than `max_pixels` is scaled down to that many, aspect kept. Only a picture thinner than
    MAX_ASPECT to 1 is stretched to that, across its short side, and one with a side under MIN_SIDE is enlarged to it:
    nothing is cut off, and no foreign border is added.
    """
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        scale = math.sqrt(max_pixels / (width * height))
        width, height = max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
    long, short = max(width, height), min(width, height)
    short_side = max(short, math.ceil(long / MAX_ASPECT))
    scale = max(1.0, MIN_SIDE / short_side)
    short_side, long = round(short_side * scale), round(long * scale)
    size = (long, short_side) if width >= height else (short_side, long)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
