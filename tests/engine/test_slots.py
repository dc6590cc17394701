"""The slot engine: what holds whatever falls free, ends, fails or grows; and when it is not taken."""

from dataclasses import replace

import pytest
import torch
from transformers import GenerationMixin

from caption.engine import Refusal, Request, attention, check, load_engine, load_preparer
from caption.engine.base import load
from caption.engine.decoder import Decoder
from caption.engine.generate import GenerateEngine
from caption.engine.slots import GROUP, WAITING, SlotEngine
from tests.runs import captions, run

from .helpers import caption_all, options, picture, pictures, set_ends, spell_ids
from .tiny import prompts_for


def requests_for(folder: str, name: str, count: int, limits=(None,)) -> list[Request]:
    prompts, preparer = prompts_for(name), load_preparer(options(folder))
    prepared = [preparer.prepare(image, prompts[i % 3]) for i, image in enumerate(pictures(count))]
    return [Request(i, inputs, 1000 + i, limits[i % len(limits)]) for i, inputs in enumerate(prepared)]


def texts(engine, requests) -> dict:
    spell_ids(engine)
    return {key: answer.text for key, answer in caption_all(engine, requests).items()}


def out_of_memory(*_):
    raise torch.OutOfMemoryError("full")


@pytest.fixture
def llava(checkpoint):
    folder = checkpoint("llava")
    engine = SlotEngine(options(folder))
    set_ends(engine.model, [])
    return engine, requests_for(folder, "llava", 9)


def test_a_crowd_that_ends_at_once_is_answered_in_parts_and_each_of_it_once(checkpoint):
    settings = options(checkpoint("llava"), batch_size=2 * GROUP, max_new_tokens=3)
    engine, requests = SlotEngine(settings), requests_for(settings.model, "llava", 2 * GROUP)
    set_ends(engine.model, [])
    engine.prefill_tokens = WAITING * max(request.prompt_tokens for request in requests)
    engine.admit(requests)
    crowds = []
    while engine.busy:
        crowds.append([answer.key for answer in engine.step()])
    assert max(map(len, crowds)) == GROUP
    assert sorted(key for crowd in crowds for key in crowd) == list(range(2 * GROUP))


SETTINGS = {
    "sampled": ({"temperature": 0.9, "top_k": 40, "top_p": 0.9}, {}),
    "penalty": ({"repetition_penalty": 1.5, "temperature": 0.7}, {}),
    "config": ({}, {
        "no_repeat_ngram_size": 2, "suppress_tokens": [5, 6, 7], "begin_suppress_tokens": [40, 41], "min_new_tokens": 6,
        "forced_bos_token_id": 9, "remove_invalid_values": True, "renormalize_logits": True,
    }),
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "blip_2", "florence2", "qwen3_5"])
def test_the_words_of_generate_for_all_that_is_asked_of_them(checkpoint, name, setting):
    changes, configured = SETTINGS[setting]
    settings = options(checkpoint(name), max_new_tokens=14, **changes)
    loaded = load(settings)
    for module in loaded.model.modules():
        if isinstance(module, GenerationMixin):
            module.generation_config.update(**configured)
    requests = requests_for(settings.model, name, 7)
    # An end that comes early, where nothing forbids it.
    set_ends(loaded.model, [])
    endless = texts(GenerateEngine(settings, loaded), requests[:1])[0].split()
    set_ends(loaded.model, [int(endless[2]), int(endless[9])])
    one_by_one = [texts(GenerateEngine(settings, loaded), [request])[request.key] for request in requests]
    for slots in (1, 2, 4):
        engine = SlotEngine(options(settings.model, max_new_tokens=14, batch_size=slots, **changes), loaded)
        made = texts(engine, requests)
        assert [made[i] for i in range(7)] == one_by_one


@pytest.mark.parametrize("penalty", [1.0, 1.25])
def test_a_text_may_have_a_penalty_of_its_own_and_its_neighbours_keep_theirs(checkpoint, penalty):
    """Also where slots have kept no history so far, and in a beam search."""
    folder = checkpoint("llava")
    loaded = load(options(folder))
    set_ends(loaded.model, [])
    asked = options(folder, max_new_tokens=14, repetition_penalty=penalty, batch_size=3)
    factors = [1.0, 1.0, 1.0, 1.5, 1.0, 4.0, 1.0]
    requests = [replace(one, penalty=factors[one.key]) for one in requests_for(folder, "llava", 7, limits=(14, 6, 10))]

    def alone(one, beams=1):
        as_run = replace(asked, repetition_penalty=penalty * one.penalty, num_beams=beams)
        return texts(GenerateEngine(as_run, loaded), [replace(one, penalty=1.0)])[one.key]

    wanted = {one.key: alone(one) for one in requests}
    engine = SlotEngine(asked, loaded)
    assert texts(engine, requests) == wanted == texts(GenerateEngine(asked, loaded), requests)
    assert engine.decoder.looks_back == (penalty != 1), "with no such text inside, a step costs no more than before"
    assert wanted[3] != texts(SlotEngine(asked, loaded), [replace(requests[3], penalty=1.0)])[3]
    searched = texts(GenerateEngine(replace(asked, num_beams=2), loaded), requests[2:4])
    assert searched == {one.key: alone(one, beams=2) for one in requests[2:4]}


def test_room_grows_with_slots_prompts_and_limits(checkpoint):
    folder = checkpoint("llava")
    loaded = load(options(folder))
    set_ends(loaded.model, [])
    preparer = load_preparer(options(folder))
    words = ["Say.", "What is there to see? " * 12, "Say more."]
    asked = [(0, 3), (1, 70), (2, 9), (0, 100)]
    requests = [
        Request(i, preparer.prepare(picture(i), words[word]), 0, limit) for i, (word, limit) in enumerate(asked)
    ]
    expected = [texts(GenerateEngine(options(folder), loaded), [request])[request.key] for request in requests]
    engine = SlotEngine(options(folder, batch_size=8), loaded)
    spell_ids(engine)
    answers = {}
    for group in (requests[:1], requests[1:]):
        engine.admit(group)
        for _ in range(2):
            answers |= {answer.key: answer.text for answer in engine.step()}
    answers |= texts(engine, [])
    assert [answers[i] for i in range(4)] == expected


def test_free_slots_are_offered_in_groups(llava):
    engine, requests = llava
    engine.options = options(engine.options.model, batch_size=8)
    engine.reset()
    assert (engine.free, engine.busy) == (8, 0)
    engine.admit(requests[:6])
    assert (engine.free, engine.busy) == (2, 6)
    engine.admit(requests[6:7])
    assert (engine.free, engine.busy) == (0, 7)
    with pytest.raises(ValueError, match="0 free"):
        engine.admit(requests[7:8])
    assert engine.busy == 7


def test_no_more_than_two_groups_wait_in_the_engine(llava):
    """What is let in is begun: no other worker can take it over."""
    engine, requests = llava
    engine.options = options(engine.options.model, batch_size=64)
    engine.reset()
    assert engine.free == 64
    longest = max(one.inputs["input_ids"].shape[1] for one in requests)
    engine.prefill_tokens = 2 * longest
    engine.admit(requests[:1])
    engine.step()
    room = engine.free
    assert 4 <= room < 9 and engine.fitting == room // 2
    engine.admit(requests[1 : 1 + room])
    assert engine.free == 0


def test_a_text_that_ended_comes_out_while_others_go_on(llava):
    engine, requests = llava
    engine.admit([Request(0, requests[0].inputs, 0, 2), Request(1, requests[1].inputs, 0, 10)])
    assert [answer.key for answer in engine.step()] == [0]
    assert (engine.free, engine.busy) == (3, 1)
    engine.admit(requests[2:5])
    answers = caption_all(engine, [])
    assert {key: answer.tokens for key, answer in answers.items()} == dict.fromkeys([1, 2, 3, 4], 10)


@pytest.mark.parametrize("when", ["prefill", "decode"])
def test_after_an_exception_and_a_reset_nothing_is_left(llava, monkeypatch, when):
    engine, requests = llava
    expected = texts(engine, requests)
    engine.admit(requests[:3])
    if when == "decode":
        engine.step()
        monkeypatch.setattr(Decoder, "_step", out_of_memory)
    else:
        monkeypatch.setattr(engine, "prefilled", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        for _ in range(3):
            engine.step()
    monkeypatch.undo()
    engine.reset()
    assert (engine.free, engine.busy) == (4, 0)
    assert texts(engine, requests) == expected


def test_a_request_that_fails_is_refused_alone_and_costs_its_neighbours_nothing(llava):
    engine, requests = llava
    expected = texts(engine, requests)
    bad = {**requests[3].inputs, "input_ids": requests[3].inputs["input_ids"] + 10**6}
    engine.admit(requests[:1])
    made = {answer.key: answer.text for answer in engine.step()}
    engine.admit([requests[1], Request("bad", bad, 0), requests[2]])
    refused = []
    while engine.busy:
        for answer in engine.step():
            if isinstance(answer, Refusal):
                refused.append((answer.key, type(answer.error)))
            else:
                made[answer.key] = answer.text
    assert made == {key: expected[key] for key in range(3)} and refused == [("bad", IndexError)]
    assert not engine.apart and texts(engine, requests) == expected


def test_what_is_not_finite_stays_in_its_slot_and_leaves_with_its_text(llava):
    engine, requests = llava
    expected = texts(engine, requests)

    def ruin(module, inputs, output):
        if ruin.on and output.shape[0] == 4 and output.shape[1] == 1:
            output[1] = torch.nan
        return output

    ruin.on = True
    hook = engine.model.model.language_model.layers[0].self_attn.k_proj.register_forward_hook(ruin)
    engine.admit(requests[:4])
    first = engine.step()
    ruined = engine.held[1].key
    answers = {answer.key: answer for answer in first + engine.step()}
    for i in range(4):
        assert answers[i].flags == (("non-finite",) if i == ruined else ())
        assert (answers[i].text == expected[i]) == (i != ruined)
    ruin.on = False
    assert texts(engine, requests[:4]) == {i: expected[i] for i in range(4)}
    hook.remove()


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava_next", "idefics3"])
def test_prompts_of_unlike_lengths_are_computed_without_their_padding(checkpoint, monkeypatch, name):
    packed, computed = attention._packed, []

    def spy(query, *rest):
        computed.append(query.shape)
        return packed(query, *rest)

    monkeypatch.setattr(attention, "_packed", spy)
    settings = options(checkpoint(name), batch_size=5)
    engine, requests = load_engine(settings), requests_for(settings.model, name, 5)
    computed.clear()
    made = texts(engine, requests)
    lengths = [request.inputs["input_ids"].shape[1] for request in requests]
    assert len(set(lengths)) > 1 and {shape[2] for shape in computed} == {sum(lengths)}
    assert made == texts(GenerateEngine(settings, load(settings)), requests)


class Bears:
    """Memory that bears so many places in all, once it was measured."""

    def __init__(self, places: int):
        self.places, self.measured = places, False

    def watch(self) -> None:
        pass

    def measure(self, group) -> None:
        self.measured = True

    def plan(self, capacity: int, held: int) -> tuple[int, int]:
        return max(1, self.places // capacity), 10**6


def test_longer_texts_get_fewer_slots_where_memory_decides(checkpoint):
    """Capacities come in steps of 64 on a CPU: two of 128 fit in 256 places, and one of 192."""
    folder = checkpoint("llava")
    loaded = load(options(folder))
    set_ends(loaded.model, [])
    requests = requests_for(folder, "llava", 6, (3, 3, 3, 3, 90, 4))
    expected = texts(GenerateEngine(options(folder, batch_size=1), loaded), requests)
    engine = SlotEngine(options(folder, batch_size=None), loaded)
    engine.memory = Bears(256)
    spell_ids(engine)
    engine.admit(requests[:4])
    made = {answer.key: answer.text for answer in engine.step()}
    assert engine.slots == 2
    engine.waiting += requests[4:]  # while others are held
    while engine.busy:
        assert len(engine.held) <= engine.slots
        made.update((answer.key, answer.text) for answer in engine.step())
    assert engine.slots == 1 and made == expected


def test_prompts_that_memory_does_not_bear_together_come_in_smaller_groups_and_what_is_held_goes_on(llava, monkeypatch):
    engine, requests = llava
    expected, right, tried = texts(engine, requests), engine.prefilled, []

    def full(group):
        tried.append(len(group))
        if len(group) > 1:
            raise torch.OutOfMemoryError("full")
        return right(group)

    monkeypatch.setattr(engine, "prefilled", full)
    assert texts(engine, requests) == expected
    assert max(tried[5:]) == 1, "it is remembered"


def test_one_prompt_that_memory_does_not_bear_waits_for_an_empty_cache_before_it_fails(llava, monkeypatch):
    engine, requests = llava
    expected, right = texts(engine, requests), engine.prefilled

    def full(group):
        if engine.held and group[0].key == 2:
            raise torch.OutOfMemoryError("full")
        return right(group)

    engine.prefill_tokens = 1
    monkeypatch.setattr(engine, "prefilled", full)
    assert texts(engine, requests[:3]) == {key: expected[key] for key in range(3)}
    monkeypatch.setattr(engine, "prefilled", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        texts(engine, requests[:1])


def test_beams_are_no_fallback(checkpoint):
    said = load_engine(options(checkpoint("llava"), num_beams=2)).describe()
    assert said["engine"] == "generate" and "fallback" not in said


@pytest.mark.parametrize(
    ("configured", "named"),
    [({"min_length": 5}, "MinLength"), ({"max_time": 60.0}, "MaxTime"), ({"use_cache": False}, "cache")],
)
def test_what_rows_can_not_have_for_themselves_is_left_to_generate(checkpoint, monkeypatch, configured, named):
    settings = options(checkpoint("llava"))
    loaded = load(settings)
    loaded.model.generation_config.update(**configured)
    monkeypatch.setattr("caption.engine.check.load", lambda options: loaded)
    said = load_engine(settings).describe()
    assert said["engine"] == "generate" and named in said["fallback"]


@pytest.mark.parametrize("fault", ["mask", "positions", "cache"])
def test_the_check_finds_slots_that_go_wrong(checkpoint, monkeypatch, fault):
    right_masks, right_write = Decoder._masks, Decoder._rowwise
    if fault == "mask":
        monkeypatch.setattr(Decoder, "_masks", lambda self, *rest: right_masks(self, *rest) ^ True)
    elif fault == "positions":
        monkeypatch.setattr(
            Decoder, "_rowwise", lambda self, group: {k: v + 9 for k, v in right_write(self, group).items()}
        )
    else:
        monkeypatch.setattr("caption.engine.slotcache.SlotCache.write", lambda *_: None)
    said = load_engine(options(checkpoint("llava"))).describe()
    assert said["engine"] == "generate" and "apart" in said["fallback"]


def test_a_step_that_can_not_be_captured_is_decoded_without_a_graph(checkpoint, monkeypatch):
    """On a machine without a GPU, every capture fails."""
    monkeypatch.setitem(check.WAYS, "other", check.WAYS["GPU"])
    engine = load_engine(options(checkpoint("llava")))
    said = engine.describe()
    assert said["engine"] == "slots" and said["graphs"] is False and "and CUDA graphs" in said["fallback"]
    requests = requests_for(engine.options.model, "llava", 2)
    assert texts(engine, requests) == texts(GenerateEngine(engine.options), requests)


def test_memory_that_runs_out_during_the_check_is_no_fallback(checkpoint, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Decoder, "admit", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_engine(options(checkpoint("llava")))


@pytest.mark.parametrize("name", ["llava", "kosmos2"])
def test_a_model_is_compared_once(checkpoint, monkeypatch, tmp_path, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compared, compare = [], check._compare
    monkeypatch.setattr(check, "_compare", lambda *given: compared.append(given) or compare(*given))
    settings = options(checkpoint(name), prompt=prompts_for(name)[0], model_identity="this")
    first, second = load_engine(settings).describe(), load_engine(settings).describe()
    assert first == second and len(compared) == 1
    assert load_engine(replace(settings, model_identity="other")).describe() == first and len(compared) == 2
    for file in tmp_path.rglob("*.json"):
        file.write_bytes(b'{"way": []}')
    assert load_engine(settings).describe() == first and len(compared) == 3, "what can't be read is found out again"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert load_engine(settings).describe() == first and len(compared) == 4


def test_a_run_says_why_its_model_is_slower(checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    picture(0).save(tmp_path / "in" / "one.png")
    prompt = prompts_for("kosmos2")[0]
    done = run(tmp_path / "in", "--output", tmp_path / "out", "--model", checkpoint("kosmos2"), "--prompt", prompt)
    assert done.returncode == 0, done.stderr
    reason = "Kosmos2ForConditionalGeneration can't be captioned in slots"
    assert reason in done.stdout + done.stderr
    assert reason in (tmp_path / "out" / "run.json").read_text()


def test_a_run_says_that_its_model_reads_no_prompt_and_captions_a_picture_alike_whatever_it_says(checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    picture(0).save(tmp_path / "in" / "one.png")
    model, prompt = checkpoint("vision_encoder_decoder"), "Say, at some length, what there is to see."
    keep = ("--on-flag", "empty=keep,pad-flood=keep,loop=keep")
    settings = ("--model", model, "--prompt", prompt, "--max-new-tokens", 8, "--dtype", "fp32")
    done = run(tmp_path / "in", "--output", tmp_path / "out", *settings, *keep)
    assert done.returncode == 0, done.stderr
    assert "VisionEncoderDecoderModel reads no prompt, so that --prompt changes nothing" in done.stderr
    short = options(model, prompt="Describe it.", max_new_tokens=8)
    answers = caption_all(load_engine(short), [Request(0, load_preparer(short).prepare(picture(0)), 0)])
    assert captions(tmp_path / "out")["one.png"]["caption"] == answers[0].text


@pytest.mark.parametrize("unlike", [True, False], ids=["prompts of unlike lengths", "of one length"])
def test_the_last_layers_mlp_is_computed_for_the_last_tokens_alone(checkpoint, unlike):
    settings = options(checkpoint("qwen2_5_vl"), batch_size=4)
    engine, requests = load_engine(settings), requests_for(settings.model, "qwen2_5_vl", 4)
    if not unlike:
        requests = [replace(requests[0], key=key) for key in range(4)]
    mlp, rows = engine.model.get_decoder().layers[-1].mlp, []
    mlp.down_proj.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[:-1].numel()))
    with torch.inference_mode():
        engine.prefilled(requests)
    assert rows == [4]
