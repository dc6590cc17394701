"""Captions of a batch are those of each picture by itself, token for token, in every family."""

import numpy as np
import pytest
import torch

from caption.engine import Request, load_engine, load_preparer
from caption.engine.generate import GenerateEngine
from caption.engine.processor import load_processor
from caption.engine.slots import SlotEngine

from .helpers import caption_all, options, picture, pictures, set_ends, spell_ids, unpacked
from .tiny import FAMILIES, PLAIN, PROMPTS, prompts_for

TOKENS = 12
# Kosmos-2 reads the length of the cache as one number for all rows, in old-style masks and positions. Mllama keeps the
# picture in layers of cross attention inside one cache, whose layers so have unlike lengths. GIT asks whether the
# cache is empty, of all rows at once; ViT's states come without a mask; Pix2Struct is said to have no cache.
NOT_IN_SLOTS = {"kosmos2", "mllama", "git", "vision_encoder_decoder", "pix2struct"}


def by_hand(processor, name, image, prompt):
    """The inputs of one picture as the model's card makes them."""
    if name in PLAIN:
        inputs = processor(images=image, text=prompt, return_tensors="pt")
        if name == "git":  # as its card has it: what is to go on does not end
            inputs |= {key: inputs[key][:, :-1] for key in ("input_ids", "attention_mask")}
        return inputs
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    begins = processor.tokenizer.bos_token or "\0"
    plain = {"add_special_tokens": False} if text.startswith(begins) else {}
    return processor(images=[image], text=[text], return_tensors="pt", **plain)


def generate_by_hand(model, name, inputs, tokens=TOKENS) -> list[int]:
    """The new tokens of one picture from transformers' generate, padding and all else as it comes."""
    inputs = {key: value.clone() for key, value in inputs.items() if key != "labels"}
    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic":  # a short text makes it forget how long others were
            module(torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.int64))
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)[0].tolist()
    length = {"florence2": 1, "vision_encoder_decoder": 1}.get(name) or len(inputs.get("input_ids", [[]])[0])
    if name == "pix2struct":
        length = 1 + inputs["decoder_input_ids"].shape[1]
    return ids[length - (name == "blip") :]


@pytest.mark.parametrize(
    ("name", "engine_class"),
    [(name, way) for name in FAMILIES for way in (GenerateEngine, SlotEngine)[: 1 if name in NOT_IN_SLOTS else 2]],
)
def test_batched_captions_equal_generate_by_hand(checkpoint, name, engine_class):
    folder = checkpoint(name)
    prompts, images = prompts_for(name), pictures(8)
    engine = engine_class(options(folder, max_new_tokens=TOKENS, batch_size=3))
    preparer = load_preparer(options(folder))
    spell_ids(engine)
    processor = load_processor(folder)
    inputs = [by_hand(processor, name, image, prompts[i % 3]) for i, image in enumerate(images)]
    limits = [5 if i == 1 else 1 if i == 4 else TOKENS for i in range(len(images))]
    set_ends(engine.model, [])
    endless = [generate_by_hand(engine.model, name, item) for item in inputs]
    assert len({tuple(ids) for ids in endless}) > 1, "all the same: this would prove nothing"
    # Tokens that come up in the middle end the texts, so that they end at unlike lengths.
    ends = sorted({ids[place] for ids in endless for place in (3, 7)})[:2]
    for model_ends in ([], ends[:1] if name == "blip" else ends):
        set_ends(engine.model, model_ends)
        expected = [generate_by_hand(engine.model, name, item)[:limit] for item, limit in zip(inputs, limits)]
        prepared = [preparer.prepare(image, prompts[i % 3]) for i, image in enumerate(images)]
        answers = caption_all(engine, [Request(i, *of) for i, of in enumerate(zip(prepared, limits, limits))])
        for i, ids in enumerate(expected):
            ended = next((place for place, token in enumerate(ids) if token in model_ends), None)
            assert answers[i].text == " ".join(map(str, ids[:ended])), f"picture {i}, ends {model_ends}"
            assert answers[i].tokens == len(ids[:ended])
            assert answers[i].finish_reason == ("length" if ended is None else "stop")
            assert answers[i].flags == ()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_check_at_load_sends_each_family_its_way(checkpoint, name):
    said = load_engine(options(checkpoint(name), prompt=prompts_for(name)[0])).describe()
    assert said["engine"] == ("generate" if name in NOT_IN_SLOTS else "slots")
    assert ("fallback" in said) == (name in NOT_IN_SLOTS)


@pytest.mark.parametrize("name", FAMILIES)
def test_thin_and_tiny_pictures_are_captioned(checkpoint, name):
    folder = checkpoint(name)
    prompt = prompts_for(name)[0]
    engine = load_engine(options(folder, max_new_tokens=3, batch_size=8))
    preparer = load_preparer(options(folder, prompt=prompt))
    sizes = [(1, 1), (3, 3), (1, 3), (3, 200), (1, 2500), (2500, 1), (600, 5)]
    requests = [Request(size, preparer.prepare(picture(1, *size)), 0) for size in sizes]
    assert set(caption_all(engine, requests)) == set(sizes)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "vision_encoder_decoder"])  # which names none
def test_the_same_processor_as_transformers_own(checkpoint, name):
    """Where AutoProcessor loads with the same backend, ours makes the same arrays."""
    from transformers import AutoProcessor

    folder, prompt = checkpoint(name), prompts_for(name)[0]
    try:
        theirs = AutoProcessor.from_pretrained(folder)
    except (ImportError, ValueError):
        pytest.skip("this family's needs torchvision, which is why we build our own")
    if not type(theirs.image_processor).__name__.endswith("Pil"):
        pytest.skip("torchvision is installed")
    expected = by_hand(theirs, name, picture(3, 90, 70), prompt)
    made = load_preparer(options(folder)).prepare(picture(3, 90, 70), prompt)
    assert set(made) == set(expected) - {"labels"}
    for key, array in made.items():
        assert getattr(array, "raw", array).flags.c_contiguous
        array = unpacked(array)
        np.testing.assert_array_equal(array, expected[key].numpy())


def test_padding_stands_left_of_the_prompt(checkpoint):
    from caption.engine.collate import collate

    preparer = load_preparer(options(checkpoint("llava")))
    items = [preparer.prepare(picture(0), prompt) for prompt in PROMPTS]
    batch = collate(items, 7, "left", "cpu", torch.float32)
    for row, item in enumerate(items):
        length = item["input_ids"].shape[1]
        assert batch["input_ids"][row, -length:].tolist() == item["input_ids"][0].tolist()
        assert set(batch["input_ids"][row, :-length].tolist()) <= {7}
        assert batch["attention_mask"][row].sum() == length
