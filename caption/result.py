"""Result: from what an engine answers to what the coordinator hears."""

from __future__ import annotations

from typing import NamedTuple

from caption import guard
from caption.engine import JUDGE, Answer, Scored
from caption.messages import Result, Setup
from caption.rating import rating


class Inside(NamedTuple):
    """What is remembered of a picture in the engine. Not its inputs: their memory is the loaders' again, soon."""

    width: int
    height: int
    since: float

    @property
    def pixels(self) -> int:
        return self.width * self.height


def make_result(
    answer: Answer | Scored, setup: Setup, prompt: str | None, width: int, height: int, seconds: float
) -> Result:
    """The caption, as the guard passes it, or the score.

    Args:
        prompt: the item's own, or None.
        width, height: pixels of the upright original.
        seconds: that it was in the engine.

    Raises:
        NoScore: a judge's text gives no score.
    """
    flags = (*setup.flags, *answer.flags)
    made = Result(answer.key, "", None, "stop", 0, width, height, seconds, flags)
    if isinstance(answer, Scored):
        return made._replace(score=answer.score, parts=answer.parts)
    made = made._replace(finish_reason=answer.finish_reason, tokens=answer.tokens)
    if setup.options.scorer == JUDGE:
        number = rating(answer.text, answer.finish_reason, setup.highest)
        return made._replace(score=number, parts={"rating": number})
    verdict = guard.judge(answer.text, answer.finish_reason, setup.guard, prompt, flags)
    return made._replace(caption=verdict.caption, raw=verdict.raw, flags=verdict.flags)
