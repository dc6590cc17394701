"""Loops and floods: a text that does not go on."""

from __future__ import annotations

import re

# Words; of scripts that write none apart (Thai, Lao, Chinese, Japanese), letters; numbers.
_UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|\d+")
_LIST_MARKS = re.compile(r"(?<![\w.,])\d{1,4}[.)]\s")
_GLUED = re.compile(r"\S{24,}")
_INSIDE = re.compile(r"([^\W\d_]{1,12}?)\1{7,}")
_LONGER = 12  # a unit glued more often than seven times must be as long as this, all together

# (times a stretch is said, words that this covers): at least both is a loop. A refrain, a counted row of things or a
# text in the picture says short stretches three or four times.
_ENOUGH = ((3, 24), (4, 16), (6, 10), (8, 8))
_NUMBERS = 20  # times, of stretches without a word: tables hold equal numbers
_LETTERS = 12  # times, of a single letter of an unspaced script
_POOR = 50  # texts of fewer words are too short for the share of new word triples to say something
_SHARE = 0.45


def is_loop(text: str) -> bool:
    """Whether a word, a phrase or letters come again and again, or hardly a word is new."""
    if any(len(glued.group()) >= _LONGER for long in _GLUED.findall(text) for glued in _INSIDE.finditer(long)):
        return True
    words = _WORDS.findall(_LIST_MARKS.sub("", text).lower())
    count = len(words)
    if count < 8:
        return False
    triples = list(zip(words, words[1:], words[2:]))
    distinct = len(set(triples))
    if len(triples) - distinct < 5:  # a loop has at least so many that stood before
        return False
    return _runs(words, triples) or (count >= _POOR and distinct < _SHARE * len(triples))


def _runs(words: list[str], triples: list[tuple[str, str, str]]) -> bool:
    """Whether a stretch is said over and over: each triple stood before, always the same number of words ago."""
    last: dict[tuple[str, str, str], int] = {}
    period = length = 0
    for place, triple in enumerate(triples):
        before = last.get(triple)
        last[triple] = place
        if before is None:
            period = length = 0
            continue
        if place - before == period:
            length += 1
        else:
            period, length = place - before, 1
        covered = length + 2 + period
        times = covered / period
        if any(times >= least and covered >= words_ for least, words_ in _ENOUGH):
            stretch = words[place : place + period] if period < 3 else triple
            if all(word.isdigit() for word in stretch):
                if times >= _NUMBERS:
                    return True
            elif period > 1 or len(stretch[0]) > 1 or times >= _LETTERS:
                return True
    return False


_TOKENS = re.compile(r"<\|[\w ]{2,24}\|>")
_WEAK_TOKENS = re.compile(
    r"</?(?:pad|unk|eos|bos|s|mask|image)>|\[(?:PAD|UNK|EOS|SEP|CLS|MASK)\]|\ufffd", re.IGNORECASE
)
_MARKS = re.compile(r"[^\w\s](?:\s?[^\w\s]){9,}")
_SHOUTS = re.compile(r"([!?])(?:\s?\1){9,}")
_LAYOUT = set(".-=*~─—·…+| \n")  # signs that rows of dots, lines and tables are made of
_LONG, _LONGEST = 24, 60  # of one sign; of one that layout is made of
_STRAY = 40  # of signs of several kinds
_DIGITS = re.compile(r"(\d)\1{39}|([_▁█])\2{59}")


def is_flood(text: str) -> bool:
    """Whether it is padding: "!!!!", tokens like <pad> or <|endoftext|>, signs without words."""
    if ("<" in text or "[" in text or "\ufffd" in text) and (
        _TOKENS.search(text) or len(_WEAK_TOKENS.findall(text)) >= 3
    ):
        return True
    return any(map(_is_padding, _MARKS.finditer(text))) or any(_DIGITS.search(long) for long in _GLUED.findall(text))


def _is_padding(marks: re.Match) -> bool:
    run = "".join(marks.group().split())
    if _SHOUTS.search(run):
        return True
    kinds = set(run)
    if len(kinds) == 1:
        return len(run) >= (_LONGEST if kinds <= _LAYOUT else _LONG)
    return len(run) >= _STRAY and not kinds <= _LAYOUT
