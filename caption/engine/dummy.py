"""Requests that nobody made, for what is to be tried before pictures come."""

import dataclasses

import numpy as np
from PIL import Image

from caption.engine import EngineOptions, Request
from caption.engine.checkpoint import read_config
from caption.engine.families import drop_ones
from caption.engine.picture import fit
from caption.engine.prompt import make_prompter

SIZE = (640, 480)  # as usual as any


def dummy_requests(options: EngineOptions, processor, tokens: int) -> list[Request]:
    """Pictures of noise, all the same, with the run's prompt: as many as have so many tokens, but one at least.

    Raises what the processor raises.
    """
    prompter = make_prompter(options, processor)
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    arrays = prompter(fit(Image.fromarray(noise), options.max_pixels), options.prompt)
    inputs = {name: np.asarray(value) for name, value in arrays.items()}
    drop_ones(read_config(options.model).get("model_type"), [inputs])  # with them, vision would go another way
    one = Request(0, inputs, 0)
    return [dataclasses.replace(one, key=number) for number in range(max(1, tokens // one.prompt_tokens))]
