"""Answer: what a text says back to its prompt: thoughts, the prompt itself, JSON."""

from __future__ import annotations

import functools
import re

import orjson

_WORDS = re.compile(r"\w+")
_ROLES = re.compile(r"\s*(?:<\|im_start\|>|#+ ?)?(?:user|assistant|human|system|instruction)\s*(?::|\n)", re.IGNORECASE)
# A prompt that ends in one of these wants to be gone on with, as in "a photo of": then its words may begin the caption.
_OPEN = """a an the of with is are shows showing depicts and in on by ein eine einen von mit ist zeigt der die das un
    une de des du est montre avec una con es muestra"""
_OPEN_ENDS = frozenset(_OPEN.split())
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.IGNORECASE | re.DOTALL)


def thought_out(text: str) -> str:
    """The text without what a model thought before it: up to ``</think>``, or all if that never came."""
    _, closed, tail = text.rpartition("</think>")
    if closed:
        return tail.strip()
    return "" if text.lstrip().startswith("<think>") else text


def is_echo(text: str, prompt: str) -> bool:
    """Whether it begins with the prompt, or with a turn of the chat."""
    if _ROLES.match(text):
        return True
    words = _told(prompt)
    return bool(words) and _plain(text[: 2 * len(prompt) + 40]).startswith(words)


@functools.lru_cache(maxsize=1024)
def _told(prompt: str) -> str:
    """The words of a prompt that tells what to do; "" of one that begins the caption."""
    words = _plain(prompt)
    last = words.rpartition(" ")[2]
    return "" if len(words) < 6 or last in _OPEN_ENDS else words


def _plain(text: str) -> str:
    return " ".join(_WORDS.findall(text.lower()))


@functools.lru_cache(maxsize=1024)
def asks_for_json(prompt: str) -> bool:
    """Whether the prompt names JSON."""
    return re.search(r"(?<![a-z])json(?![a-z])", prompt, re.IGNORECASE) is not None


def parses(text: str) -> bool:
    """Whether it is a JSON object or list, be it inside a code fence."""
    fenced = _FENCE.match(text)
    try:
        return isinstance(orjson.loads(fenced.group(1) if fenced else text), dict | list)
    except orjson.JSONDecodeError:
        return False
