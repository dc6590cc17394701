"""Rating: which number of a judge's answer is meant, and which answers give none."""

import pytest

from caption.engine import JUDGE, Answer, EngineOptions
from caption.errors import NoScore
from caption.messages import Setup
from caption.rating import HIGHEST, rating
from caption.result import make_result


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("8.", 8), ("I'd give it a 4.", 4), ("7/10 because 3 things are missing", 7), ("Score: 8/10", 8),
     ("**Rating:** 6.5", 6.5), ('{"score": 3, "why": "2 dogs"}', 3), ("The score is 9 out of 10.", 9),
     ("score 7,5", 7.5), ("Score (0-10): 7", 7), ("On a scale from 0 to 10: 5", 5), ("There is 1 dog.\nScore: 2", 2)],
)  # fmt: skip
def test_the_number_that_is_meant_is_found(text, number):
    assert rating(text, "stop", HIGHEST) == number


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no number"), ("It is excellent.", "no number"), ("I see 2 dogs and 3 cats.", "2 numbers"),
     ("11", "not between 0 and 10"), ("-3", "not between"), ("Score: 2. No, score: 7", "numbers"),
     ("4/5", "out of 5"), ("Rating: **4** out of 5", "out of 5")],
)  # fmt: skip
def test_an_answer_that_leaves_it_open_is_no_score(text, said):
    with pytest.raises(NoScore, match=said):
        rating(text, "stop", HIGHEST)


def test_a_number_whose_end_may_be_cut_is_none_and_one_before_the_cut_is():
    with pytest.raises(NoScore, match="cut"):
        rating("I give it a 1", "length", HIGHEST)
    assert rating("Score: 8. The caption names all that", "length", HIGHEST) == 8


def test_a_rubric_of_ones_own_has_a_scale_of_its_own():
    assert rating("85", "stop") == 85 and rating("4/5", "stop") == 4
    with pytest.raises(NoScore, match="too large"):  # it would be no number in JSON
        rating("9" * 400 + " dogs", "stop")


def test_what_a_judge_writes_becomes_a_score_and_no_caption():
    options = EngineOptions("null", "fp32", "cpu", 8, "Rate it: {caption}", 16, scorer=JUDGE)
    setup = Setup("cpu0", options, 1, None, 10.0, None, highest=HIGHEST)
    made = make_result(Answer((1, 0), "Score: 6", "stop", 2), setup, "Rate it: a dog", 64, 48, 0.5)
    assert (made.score, made.parts, made.caption, made.width) == (6.0, {"rating": 6.0}, "", 64)
