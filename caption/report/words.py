"""Words of a caption, in any script, and its opening."""

from __future__ import annotations

import re

_SEPARATORS = (
    r"\s!-&(-,./:-@\[-`{-~"  # ASCII, less the apostrophe and the hyphen
    r"\u00a0-\u00bf\u060c\u061b\u061f\u0964\u2000-\u2018\u201a-\u206f\u3000-\u303f\uff00-\uff0f\uff1a-\uff20"
)
_SINGLE = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Chinese and Japanese signs
_LETTER = rf"[^{_SEPARATORS}{_SINGLE}'’-]"
_WORD = re.compile(rf"[{_SINGLE}]|{_LETTER}+(?:['’-]{_LETTER}+)*")
_SPACES = {place: " " for place in range(128) if not (chr(place).isalnum() or chr(place) in "'-")}
_PUNCTUATION = ',.;:!?"“”'
_LONGEST_OPENING = 80  # letters
_LONG = 20  # letters: a first word beyond that is a text without spaces
_SIGNS = 3  # ... of which this many stand for two words

_COMMON = """
a about after all along also an and another any appears are around as at be been being between both but by can could
each either for from has have he her here his i if image in including into is it its itself like likely made many may
more most no not of off on one only or other out over own photo picture scene seems several she should show shown shows
so some such than that the their them then there these they this those through to towards two up upon very was were
what when where which while who with within without would you your
"""
# They stand in any English text, and say nothing of what is in the pictures.
COMMON = frozenset(_COMMON.split())


def words_of(text: str) -> list[str]:
    """The words of a caption in lower case; a Chinese or Japanese sign counts as one."""
    text = text.lower()
    if not text.isascii():
        return _WORD.findall(text)
    words = text.translate(_SPACES).split()  # twice as fast
    if "'" in text or "-" in text:
        return [stripped for word in words if (stripped := word.strip("'-"))]
    return words


def opening(text: str, words: int) -> str:
    """The first words as they are written, without the last one's punctuation; signs, where a text has no spaces."""
    first = text[: words * _LONGEST_OPENING].split(None, words)[:words]
    if not first:
        return ""
    found = " ".join(first) if len(first[0]) <= _LONG else first[0][: words * _SIGNS // 2]
    return found.strip(_PUNCTUATION)[:_LONGEST_OPENING]
