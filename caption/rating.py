"""Rating: the number that a judge has given, read from what it wrote."""

from __future__ import annotations

import math
import re

from caption.errors import NoScore

HIGHEST = 10.0  # of our own rubric
RUBRIC = (
    "Here is a caption of this image:\n\n{caption}\n\nHow well does it describe the image? Look for things that are "
    "wrong or made up, and for important things that are missing. Answer with one whole number from 0 (wrong "
    "throughout) to 10 (all right, nothing important missing), and nothing else."
)

_NUMBER = r"[-+]?\d+(?:[.,]\d+)?"
_SCALE = re.compile(r"(?:from\s+)?\b[01]\s*(?:to|-|–)\s*\d+\b")  # "from 0 to 10" is no answer
_MARKED = (  # the first that is found says which of several numbers is meant
    re.compile(rf'"(?:score|rating)"\s*:\s*"?({_NUMBER})', re.IGNORECASE),
    re.compile(rf"\b(?:score|rating)\b(?:\s+(?:is|of)\b)?[\s:=*_`()]*({_NUMBER})", re.IGNORECASE),
    re.compile(rf"({_NUMBER})\s*(?:/|out of)\s*\d+", re.IGNORECASE),
)
_ANY = re.compile(rf"(?<![\w.]){_NUMBER}(?!\w)")
_SCALED = r"(?<![\w.]){}[\s*_`]*(?:/|out of)[\s*_`]*(\d+)"
_SHOWN = 80  # letters of an answer without a number


def rating(text: str, finish_reason: str, highest: float | None = None) -> float:
    """The number in the text.

    Args:
        finish_reason: of the text; the last number of one that was cut ("length") may lack its end.
        highest: of the scale that begins with 0, where it is known.

    Raises:
        NoScore: there is none, or there are several and nothing says which is meant, or it is not on the scale.
    """
    answer = _SCALE.sub("", text)
    found = next((number for pattern in _MARKED if (number := _only(pattern, answer))), None)
    numbers = [match[0] for match in _ANY.finditer(answer)]
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
    if found is None:
        if len(set(numbers)) != 1:
            count = f"{len(numbers)} numbers" if numbers else "no number"
            raise NoScore(f"the judge gave {count}: {shown}")
        found = numbers[0]
    if finish_reason == "length" and text.rstrip().endswith(found):
        raise NoScore(f"the judge's answer was cut in its number: {shown}")
    number = float(found.replace(",", "."))
    if highest is not None and not 0 <= number <= highest:
        raise NoScore(f"the judge gave {number:g}, which is not between 0 and {highest:g}: {shown}")
    if not math.isfinite(number):
        raise NoScore(f"the judge gave a number that is too large: {shown}")
    scale = _only(re.compile(_SCALED.format(re.escape(found)), re.IGNORECASE), answer)
    if highest is not None and scale and float(scale) != highest:
        raise NoScore(f"the judge gave {number:g} out of {scale}, and not of {highest:g}: {shown}")
    return number


def _only(pattern: re.Pattern, text: str) -> str | None:
    """The number that the pattern finds; None if it finds none, or different ones."""
    found = {match[1] for match in pattern.finditer(text)}
    return found.pop() if len(found) == 1 else None
