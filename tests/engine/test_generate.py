"""The plain engine: limits, ends, flags, beams, what it says of itself."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from caption.engine import DoesNotLoad, Request, load_engine, load_preparer
from caption.engine.generate import GenerateEngine
from caption.engine.pixels import Packed

from .helpers import caption_all, options, picture, pictures, set_ends, spell_ids, unpacked
from .tiny import FAMILIES, PICTURES, prompts_for


@pytest.fixture
def llava(checkpoint):
    settings = options(checkpoint("llava"))
    return GenerateEngine(settings), load_preparer(settings)


def test_each_request_has_its_own_limit(llava):
    engine, preparer = llava
    set_ends(engine.model, [])
    spell_ids(engine)
    inputs = preparer.prepare(picture(1))
    answers = caption_all(engine, [Request(limit, inputs, 0, limit) for limit in (1, 4, 7)] + [Request(10, inputs, 0)])
    for limit, answer in answers.items():
        assert (answer.tokens, answer.finish_reason) == (limit, "length")
        assert answers[10].text.startswith(answer.text)


def test_full_batches_are_doubled_as_long_as_memory_bears_it_and_captions_stay(checkpoint):
    settings = options(checkpoint("llava"), batch_size=None)
    engine, preparer = GenerateEngine(settings), load_preparer(settings)
    prepared = [preparer.prepare(image) for image in pictures(8)]
    requests = [Request(key, prepared[key % 8], key) for key in range(60)]
    expected = caption_all(engine, requests)
    assert engine.slots == 8
    watched = []
    engine.memory = SimpleNamespace(watch=lambda: watched.append(engine.slots), bear_twice=True)
    caption_all(engine, requests[:5])
    assert engine.slots == 8, "a batch that is not full says nothing"
    assert caption_all(engine, requests) == expected
    assert watched == [8, 8, 16, 32, 64] and engine.slots == 64, "8, 16 and 32 were full, 4 were left"
    engine.memory.bear_twice = False
    caption_all(engine, [*requests, *(dataclasses.replace(one, key=-1 - one.key) for one in requests)])
    assert engine.slots == 64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_batches_of_what_can_not_go_in_slots_grow(checkpoint):
    settings = options(checkpoint("kosmos2"), batch_size=None, device="cuda", prompt=prompts_for("kosmos2")[0])
    engine, inputs = load_engine(settings), load_preparer(settings).prepare(picture(1))
    assert engine.name == "generate" and engine.slots == 8
    answers = caption_all(engine, [Request(key, inputs, key) for key in range(130)])
    assert len(answers) == 130 and engine.slots > 32


def test_the_end_token_is_neither_counted_nor_spoken(llava):
    engine, preparer = llava
    inputs = preparer.prepare(picture(1))
    set_ends(engine.model, [])
    spell_ids(engine)
    ids = caption_all(engine, [Request(0, inputs, 0)])[0].text.split()
    place = next(place for place in range(1, 10) if ids[place] not in ids[:place])
    set_ends(engine.model, [int(ids[place])])
    for limit, expected in ((None, "stop"), (place + 1, "stop"), (place, "length")):
        answer = caption_all(engine, [Request(0, inputs, 0, limit)])[0]
        assert answer.text.split() == ids[:place]
        assert (answer.tokens, answer.finish_reason) == (place, expected)


def test_texts_are_stripped_of_space_and_special_tokens(llava):
    engine, _ = llava
    tokenizer = engine.tokenizer
    ids = [tokenizer.pad_token_id, *tokenizer("  Two\n words. ")["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "Two\n words."


def test_non_finite_logits_are_flagged_until_the_text_ends(llava):
    engine, preparer = llava
    set_ends(engine.model, [])
    requests = [Request(i, preparer.prepare(image), 0) for i, image in enumerate(pictures(3))]
    ruined_step = 2

    def ruin(module, inputs, output):
        ruin.step += 1
        if ruin.step == ruined_step:
            output[1, -1, 5] = torch.nan
        return output

    ruin.step = -1
    hook = engine.model.lm_head.register_forward_hook(ruin)
    answers = caption_all(engine, requests)
    assert [answers[i].flags for i in range(3)] == [(), ("non-finite",), ()]
    ruin.step = -1
    cut = caption_all(engine, [dataclasses.replace(request, max_new_tokens=ruined_step) for request in requests[:2]])
    hook.remove()
    assert cut[1].flags == ()


def test_beams(checkpoint):
    """A beam search in a batch is the one of each picture alone; limits don't reach into it."""
    by_batch = []
    for batch_size in (1, 3):
        settings = options(checkpoint("smolvlm"), num_beams=3, batch_size=batch_size)
        engine, preparer = GenerateEngine(settings), load_preparer(settings)
        spell_ids(engine)
        prepared = [preparer.prepare(image) for image in pictures(3)]
        requests = [Request(i, inputs, 0, 6 + i // 2) for i, inputs in enumerate(prepared)]
        by_batch.append(caption_all(engine, requests))
    assert by_batch[0] == by_batch[1]
    inputs = {key: torch.from_numpy(unpacked(value)) for key, value in prepared[0].items()}
    ids = engine.model.generate(**inputs, do_sample=False, num_beams=3, max_new_tokens=6)[0]
    assert by_batch[0][0].text.split() == [str(int(token)) for token in ids[inputs["input_ids"].shape[1] :]]


def test_sampling_and_beams_exclude_each_other(checkpoint):
    with pytest.raises(ValueError, match="temperature"):
        GenerateEngine(options(checkpoint("llava"), num_beams=2, temperature=0.5))


def test_free_and_busy(llava):
    engine, preparer = llava
    requests = [Request(i, preparer.prepare(picture(i)), 0) for i in range(5)]
    assert (engine.free, engine.busy) == (4, 0)
    with pytest.raises(ValueError):
        engine.admit(requests)
    assert engine.busy == 0
    engine.admit(requests[:3])
    assert (engine.free, engine.busy) == (1, 3)
    engine.reset()
    assert engine.step() == []
    engine.admit(requests[:1])
    assert [answer.key for answer in engine.step()] == [0]
    assert engine.free == 4


def test_an_exception_passes_unchanged_and_reset_goes_on(llava):
    engine, preparer = llava
    good = Request("good", preparer.prepare(picture(0)), 0)
    bad = Request("bad", {**good.inputs, "pixel_values": unpacked(good.inputs["pixel_values"])[:, :, :20]}, 0)
    engine.admit([bad])
    with pytest.raises((ValueError, RuntimeError)):
        engine.step()
    engine.reset()
    engine.admit([good])
    assert engine.step()[0].key == "good"


def test_a_model_that_generates_in_its_own_way_is_named(llava):
    engine, preparer = llava
    engine.model.generate = lambda **inputs: inputs["input_ids"]
    engine.admit([Request(0, preparer.prepare(picture(0)), 0)])
    with pytest.raises(DoesNotLoad, match="LlavaForConditionalGeneration"):
        engine.step()


def test_describe(llava):
    said = llava[0].describe()
    assert said["engine"] == "generate" and said["model"] == "LlavaForConditionalGeneration"
    assert said["image_processor"] == "CLIPImageProcessorPil"
    assert said["dtype"] == "fp32" and said["device"] == "cpu" and said["parameters"] > 1000
    assert said["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(("name", "dtype"), [*((name, "fp16") for name in FAMILIES), ("blip_2", "bf16")])
def test_half_precision(checkpoint, name, dtype):
    settings = options(checkpoint(name), dtype=dtype, prompt=prompts_for(name)[0], max_new_tokens=3)
    engine, preparer = GenerateEngine(settings), load_preparer(settings)
    set_ends(engine.model, [])
    inputs = preparer.prepare(picture(0))
    carried = inputs[PICTURES.get(name, "pixel_values")]
    if not isinstance(carried, Packed):
        assert carried.dtype == ("float16" if dtype == "fp16" else "float32")
    assert caption_all(engine, [Request(0, inputs, 0)])[0].tokens == 3
