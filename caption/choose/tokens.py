"""Tokens: the words, signs, numbers and texts of a condition, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from caption.checks import no_utf_8
from caption.choose.fields import NUMBER, TEXT, TRUTH
from caption.errors import UsageError

NAME, WORD, ORDER, SIGN, END = "name", "word", "order", "sign", "end"
_WORDS = ("and", "or", "not", "in", "contains", "matches", "is", "missing")
_TRUTHS = {"true": True, "false": False}
_TEXT = r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))|(?P<text>{_TEXT})"
    rf"|(?P<name>[^\W\d][\w-]*(?:\.(?:[\w-]+|{_TEXT}))*)|(?P<order>[=!<>]=|[<>])|(?P<sign>[(),])|(?P<end>$))",
    re.DOTALL,
)
_PART = re.compile(rf"{_TEXT}|[^.]+", re.DOTALL)
_MOST = 10_000  # letters of a condition
_MEANT = {"=": "==", "&": "and", "|": "or", "!": "not", "~": "matches"}


class Token(NamedTuple):
    """Attributes:
    kind: of a value NUMBER, TEXT or TRUTH; NAME (of a field), WORD (of the language), ORDER (as <=), SIGN or END.
    value: a float, a text without its quotes, true or false; the path of a name; else as it stands.
    at: its first letter, from 1 on.
    shown: as it stands.
    """

    kind: str
    value: object
    at: int
    shown: str


def tokens(text: str, option: str) -> Iterator[Token]:
    """The last one is END. Raises UsageError: it is something else, or no UTF-8; the sentence names ``option``."""
    if problem := no_utf_8(text):
        raise UsageError(f"{option}: {text!r} {problem}", "no caption has such a text")
    if len(text) > _MOST:
        raise UsageError(f"{option} has {len(text):,} letters", f"it may have {_MOST:,}")
    place = 0
    while True:
        found = _TOKEN.match(text, place)
        if not found:
            raise _strange(text, place, option)
        kind, shown, place = found.lastgroup, found[found.lastgroup], found.end()
        at = found.start(kind) + 1
        if kind == "number":
            yield Token(NUMBER, float(shown), at, shown)
        elif kind == "text":
            yield Token(TEXT, _unquoted(shown), at, shown)
        elif shown in _TRUTHS:
            yield Token(TRUTH, _TRUTHS[shown], at, shown)
        elif kind == NAME and shown not in _WORDS:
            yield Token(NAME, tuple(_unquoted(part) for part in _PART.findall(shown)), at, shown)
        else:
            yield Token(WORD if kind == NAME else kind, shown, at, shown)
        if kind == END:
            return


def _unquoted(text: str) -> str:
    """What stands between quotes. A backslash goes only where it is before such a quote: patterns need the others."""
    quote = text[0]
    return text[1:-1].replace("\\" + quote, quote) if quote in "\"'" else text


def _strange(text: str, place: int, option: str) -> UsageError:
    place += len(text[place:]) - len(text[place:].lstrip())
    sign, at = text[place], f"(letter {place + 1})"
    if sign in "\"'":
        return UsageError(f"{option}: the text that begins with {sign} {at} does not end", f"close it with {sign}")
    if sign in _MEANT:
        return UsageError(f"{option}: {sign} {at} is not known", f"write {_MEANT[sign]}")
    shown = text[place : place + 20].split()[0]
    return UsageError(f"{option}: {shown!r} {at} is neither a number, a text in quotes nor a field", "mend it there")
