"""Whether the host has to wait for the GPU where all of vision would have to be waited for."""

import pytest
import torch

from caption.engine import load_engine

from .helpers import options
from .test_slots import requests_for, texts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["smolvlm", "idefics3", "llava", "qwen2_5_vl", "qwen3_vl", "gemma3", "internvl"])
def test_nothing_is_asked_of_the_device_from_the_end_of_vision_to_that_of_the_prompts(checkpoint, name, monkeypatch):
    engine = load_engine(options(checkpoint(name), device="cuda", dtype="fp16"))
    assert engine.name == "slots", engine.fallback
    requests = requests_for(engine.options.model, name, 4, limits=(3,))
    texts(engine, requests)  # whatever is made once is made now
    text = engine.model.get_decoder()
    while text.get_decoder() is not text:
        text = text.get_decoder()
    prompt, lengths = text.forward, []

    def watched(*args, **kwargs):
        lengths.append(kwargs["inputs_embeds"].shape[1])
        torch.cuda.set_sync_debug_mode("error")
        try:
            return prompt(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(text, "forward", watched)
    with torch.inference_mode():
        engine.prefilled(requests[:1])
        engine.prefilled(requests)
    assert len(lengths) == 2 and min(lengths) > 1
