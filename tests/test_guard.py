"""Guard: what is no caption gets a flag, what is one gets none, and only what was asked for is taken off."""

import pytest

from caption.guard import FLAGS, GuardOptions, check, judge
from caption.guard.actions import parse_actions
from caption.guard.trim import HEADINGS, OPENERS, PLACES, SUBJECTS, ends_a_sentence, strip_preamble, trim_to_sentence
from tests.guard.score import PROMPT, corpus, score
from tests.runs import ROOT


def test_the_corpus_is_as_large_as_promised_and_both_halves_hold_every_kind():
    development, held_out = corpus("development"), corpus("held-out")
    rows = development + held_out
    assert sum(not row["kinds"] for row in rows) >= 300 and sum(bool(row["kinds"]) for row in rows) >= 300
    assert len({row["language"] for row in rows}) == 5
    for half in (development, held_out):
        assert {kind for row in half for kind in row["kinds"]} == set(FLAGS) - {"non-finite", "bf16"}


def test_precision_and_recall_on_the_development_half():
    precision, recall, mistakes = score(corpus("development"))
    print(f"precision {precision:.3f}, recall {recall:.3f}, {len(mistakes)} mistakes")
    assert precision > 0.97 and recall > 0.97, mistakes


LOOP = "A dog. " + "The dog is brown. " * 9


@pytest.mark.parametrize(
    ("text", "finish", "flags"),
    [("A dog runs.", "stop", ()), ("", "stop", ("empty",)), ("\u200b \n", "stop", ("empty",)),
     ("", "length", ("empty", "cut-off")), ("A dog ru", "length", ("cut-off",)), ("A dog.", "length", ()),
     ("He says “stop!”", "length", ()), ("« Stop ! »", "length", ()), ("1. A dog\n2.", "length", ("cut-off",)),
     (LOOP, "stop", ("loop",)), ("!" * 64, "stop", ("pad-flood",)), ("A dog" + "!" * 64, "stop", ("pad-flood",)),
     ("I'm sorry, but I can't help with that.", "stop", ("refusal",)), (PROMPT, "stop", ("echo",)),
     ("A sign: \"I'm sorry, I can't help.\"", "stop", ()), ("\ufffd" * 12, "stop", ("pad-flood",)),
     ("a photo of " + "ha" * 60, "stop", ("loop",)), ("Row after row after row of seats.", "stop", ())],
)  # fmt: skip
def test_each_flag_by_its_plainest_case(text, finish, flags):
    assert check(text, finish, PROMPT) == flags


@pytest.mark.parametrize(
    ("language", "right", "wrong"),
    [("es", "Un perro corre por la playa con una mujer.", "A dog runs on the beach with a woman and the sea."),
     ("it", "Un cane corre sulla spiaggia con una donna.", "Un perro corre por la playa con los niños y una mujer."),
     ("pt", "Um cão corre na praia com uma mulher e os filhos.", "Un perro corre por la playa con los niños y el mar."),
     ("nl", "Een hond rent over het strand met een vrouw.", "Der Hund ist am Strand und das Meer ist ruhig mit den"),
     ("ja", "砂浜を走る茶色い犬が写っています。", "一只棕色的狗在海滩上奔跑,背景中有两个人。"),
     ("ko", "젖은 해변을 달리는 갈색 개.", "A brown dog on the beach."), ("el", "Ένας σκύλος τρέχει.", "A dog runs."),
     ("uk", "Жінка сидить біля вікна й дивиться на вулицю.", "Женщина сидит у окна, объятая мыслями, и это видно.")],
)  # fmt: skip
def test_languages_beyond_the_corpus(language, right, wrong):
    assert check(right, "stop", PROMPT, language) == ()
    assert check(wrong, "stop", PROMPT, language) == ("wrong-language",)


def test_letters_on_a_picture_are_no_words_of_another_language():
    assert check("A tick-tack-toe board: X O X / O X O / O X X.", "stop", PROMPT, "en") == ()


def test_a_list_of_tags_is_in_no_language():
    assert check("dog, park, grass, 1girl, solo", "stop", PROMPT, "de") == ()


def test_a_prompt_that_the_caption_goes_on_with_is_no_echo():
    assert check("a photo of a red car", "stop", "a photo of") == ()
    assert check("describe the photo A red car", "stop", "Describe the photo") == ("echo",)


@pytest.mark.parametrize("text", ['{"a": 1}', '```json\n{"a": 1}\n```', "[1, 2]"])
def test_json_is_asked_for_by_the_prompt_and_a_whole_one_is_never_cut(text):
    assert check(text, "length", "Answer as JSON.") == ()
    assert check(text[:-2], "stop", "Answer as JSON.") == ("bad-json",)
    assert check("A dog.", "stop", "Jason asks: what is it?") == ()


def test_what_the_model_thought_is_taken_out_and_the_untouched_text_kept():
    options = GuardOptions(PROMPT)
    assert judge("<think>Hm</think>\n\nA dog.", "stop", options) == ("A dog.", "<think>Hm</think>\n\nA dog.", ())
    assert judge("A dog?</think>A dog.", "stop", options)[0] == "A dog."
    assert judge("<think>Let me see", "length", options) == ("", "<think>Let me see", ("empty", "cut-off"))
    assert judge("A dog.", "stop", options) == ("A dog.", None, ())


def test_prefix_and_suffix_stand_around_the_caption_and_are_not_judged():
    options = GuardOptions(PROMPT, prefix="ohwx, ", suffix=", " + LOOP)
    assert judge("a dog", "stop", options) == (f"ohwx, a dog, {LOOP}", "a dog", ())
    assert judge("", "stop", options) == ("", None, ("empty",)), "an empty caption stays visible"


def test_the_engines_flags_come_last_and_the_items_own_prompt_counts():
    assert judge("A dog", "length", GuardOptions("x"), None, ("non-finite",)).flags == ("cut-off", "non-finite")
    assert judge("{}}", "stop", GuardOptions("x"), "as json").flags == ("bad-json",)


def test_a_trimmed_caption_ends_with_a_sentence_and_has_no_flag():
    options = GuardOptions(PROMPT, trim_to_sentence=True)
    assert judge("A dog. A cat sl", "length", options) == ("A dog.", "A dog. A cat sl", ())
    assert judge("A dog and", "length", options) == ("A dog and", None, ("cut-off",))
    assert judge("A dog. A cat", "stop", options).raw is None, "it was not cut"


@pytest.mark.parametrize(
    ("text", "trimmed"),
    [("第一句。第二", "第一句。"), ("He says “Hi!” and", "He says “Hi!”"), ("Dr. Smith and", "Dr. Smith and"),
     ("It costs 3.50 and", "It costs 3.50 and"), ("A dog.\n2. A", "A dog."), ("A dog. 2.", "A dog."), ("", "")],
)  # fmt: skip
def test_where_a_sentence_ends(text, trimmed):
    assert trim_to_sentence(text) == trimmed
    assert trimmed == text or ends_a_sentence(trimmed)


@pytest.mark.parametrize(
    ("text", "stripped"),
    [("The image shows a dog.", "A dog."), ("Certainly! The image depicts a dog.", "A dog."),
     ("Sure, here is a description of the image:\n\nA dog.", "A dog."), ("In this image, there is a dog.", "A dog."),
     ("The image is a painting.", "A painting."), ("Das Bild zeigt einen Hund.", "Einen Hund."),
     ("L'image montre un chien.", "Un chien."),
     ("这张图片展示了一只狗。", "一只狗。"), ("Конечно! Собака.", "Собака.")],
)  # fmt: skip
def test_preambles_are_taken_off(text, stripped):
    assert strip_preamble(text) == stripped


@pytest.mark.parametrize(
    "text",
    ["A dog.", "Surely a dog.", "The image is blurry.", "The image shows that nobody came.", "Sure!",
     "The photographer.", "This is a photo at 5:30 pm.", "Sure enough, a dog.", "Gerne gesehen: ein Hund."],
)  # fmt: skip
def test_what_is_no_preamble_stays(text):
    assert strip_preamble(text) == text


def test_the_readme_shows_every_preamble():
    readme = (ROOT / "caption" / "guard" / "README.md").read_text(encoding="utf-8")
    subjects = [word for subjects, verbs in SUBJECTS.items() for word in (*subjects, *verbs)]
    assert [word for word in (*OPENERS, *HEADINGS, *PLACES, *subjects) if word not in readme] == []


def test_actions_are_the_defaults_with_what_was_said():
    actions = parse_actions("loop=keep, refusal=fail")
    assert (actions["loop"], actions["refusal"], actions["empty"]) == ("keep", "fail", "retry")
    assert set(actions) == set(FLAGS)
    for wrong in ("loops=keep", "loop=drop", "loop"):
        with pytest.raises(ValueError, match="names no"):
            parse_actions(wrong)
