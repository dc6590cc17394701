"""Pictures, options, and small grips on an engine under test."""

import numpy as np
from PIL import Image

from caption.engine import EngineOptions
from caption.engine.pixels import Packed


def options(folder: str, **changes) -> EngineOptions:
    plain = {"dtype": "fp32", "device": "cpu", "batch_size": 4, "prompt": "Describe it."}
    plain |= {"max_new_tokens": 10, "threads": 1}  # more threads only get in each other's way in models this small
    return EngineOptions(folder, **{**plain, **changes})


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """Noise over a gradient: no two alike, and no two parts of one alike."""
    noise = np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise + np.linspace(0, 55, width, dtype=np.uint8)[None, :, None])


def pictures(count: int) -> list[Image.Image]:
    """Of mixed sizes, portrait and landscape."""
    return [picture(i, 40 + 33 * (i % 4), 130 - 41 * (i % 3)) for i in range(count)]


def unpacked(array) -> np.ndarray:
    """What an array that was made for the engine stands for."""
    if not isinstance(array, Packed):
        return array
    array = array.made()
    if array.levels is None:
        return array.raw.astype(np.int64)
    values = np.frombuffer(array.levels.values, np.float32)
    return values[array.raw + 256 * array.levels.channel(array.shape[array.levels.axis])]


def spell_ids(engine) -> None:
    """Let the engine's texts be token ids, special ones included, so that comparing texts compares every token."""

    class Spelled:
        def decode(self, ids, skip_special_tokens):
            return " ".join(map(str, ids))

    engine.tokenizer = Spelled()


def set_ends(model, ids: list[int]) -> None:
    """Make the model end its texts with any of `ids`."""
    for module in model.modules():
        if getattr(module, "generation_config", None) is not None:
            module.generation_config.eos_token_id = ids
    if model.config.model_type == "blip":  # its generate() passes this one on
        model.config.text_config.sep_token_id = ids[0] if ids else None


def caption_all(engine, requests) -> dict:
    """Run every request through the engine; return the answers by key."""
    waiting, answers = list(requests), {}
    while waiting or engine.busy:
        take = engine.free
        engine.admit(waiting[:take])
        waiting = waiting[take:]
        answers.update((answer.key, answer) for answer in engine.step())
    return answers
