"""Prompts: presets, texts from files, fields of the image in braces, several prompts an image or one drawn."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from caption.checks import no_utf_8

PRESETS = {
    "short": "Describe this image in one short sentence.",
    "detailed": "Describe this image in detail: its subject, the setting, colours, composition, light and mood.",
    "alt-text": "Write alt text for this image: one plain sentence of at most 125 characters that tells a person who "
    "can't see it what it shows. Do not begin with 'image of'.",
    "tags": "List 10 to 20 tags for this image: short lowercase words or phrases with commas between them, and "
    "nothing else.",
    "json": "Describe this image as one JSON object with the keys subject, setting, colours (a list), style and text "
    "(the words to be read in it, or an empty string). Answer with the JSON only.",
    "text": "Write down all words to be read in this image, line by line, and nothing else.",
    "style": "Name the medium, style, colours, light and composition of this image in one sentence.",
}

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_FIELD_NAME = r"[^\W\d][\w.-]*(?: [\w.-]+)*"  # of any script; columns of tables have spaces
_FIELD = re.compile(rf"\{{\{{(.*?)\}}\}}(?!\}})|\{{({_FIELD_NAME})\}}", re.DOTALL)


class MissingFieldError(Exception):
    """An image lacks a field that its prompt names."""


class Prompt(NamedTuple):
    """What one item is asked: ``text`` None is the run's prompt, ``name`` None no name."""

    name: str | None
    text: str | None


def prompt_text(value: str) -> str:
    """The text of a prompt: of a preset by its name, of a file as @FILE, else the value itself.

    Raises:
        ValueError: a file that can't be read, an empty text, or bytes that are no UTF-8.
    """
    if value.startswith("@"):
        try:
            text = Path(value[1:]).read_bytes().decode("utf-8-sig").strip()
        except OSError as error:
            raise ValueError(f"can't read the prompt in {value[1:]}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"the prompt in {value[1:]} is no UTF-8") from error
        if not text:
            raise ValueError(f"{value[1:]} is empty")
        return text
    if problem := no_utf_8(value):
        raise ValueError(f"{value!r} {problem}")
    return PRESETS.get(value, value)


def named_prompts(value: Any) -> dict[str, str]:
    """Prompts by name, from YAML or the command line: presets' names, NAME=TEXT, NAME=@FILE, or a mapping.

    Raises:
        ValueError: it is none of these, or a name stands twice.
    """
    named: dict[str, str] = {}
    for name, text in _pairs(value):
        if text is None and name not in PRESETS:
            raise ValueError(f"{name!r} is no preset: they are {', '.join(PRESETS)}; or write NAME=TEXT")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name: use letters, digits, - and _")
        if name in named:
            raise ValueError(f"the name {name!r} stands twice")
        if isinstance(text, bool) or not isinstance(text, str | int | float | None):
            raise ValueError(f"the prompt {name!r} is no text")
        named[name] = PRESETS[name] if text is None else prompt_text(str(text))
    if not named:
        raise ValueError("it names no prompt")
    return named


def prompt_weights(value: Any) -> dict[str, float]:
    """Weights by name of the prompt, from NAME=NUMBER with commas between, or a mapping.

    Raises:
        ValueError: a weight is no number, or negative; or all are 0.
    """
    weights: dict[str, float] = {}
    for name, weight in _pairs(value):
        try:
            weights[name] = float(weight)
        except (TypeError, ValueError):
            raise ValueError(f"the weight of {name!r} is no number") from None
        if not 0 <= weights[name] < math.inf:
            raise ValueError(f"the weight of {name!r} is negative or not finite")
    if not sum(weights.values()):
        raise ValueError("no weight is above 0")
    return weights


def _pairs(value: Any) -> list[tuple[str, Any]]:
    """(name, text or None) from a mapping, a list or a text."""
    if isinstance(value, Mapping):
        return [(str(name), text) for name, text in value.items()]
    if isinstance(value, list):
        return [pair for part in value for pair in _pairs(part)]
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is neither a name nor NAME=TEXT")
    if value.startswith("{"):
        try:
            return _pairs(json.loads(value))
        except json.JSONDecodeError as error:
            raise ValueError(f"{value!r} is no JSON") from error
    parts = value.split(",")
    if not all(_simple(part) for part in parts):
        parts = [value]  # the comma belongs to the text
    return [(name.strip(), text if equals else None) for name, equals, text in (part.partition("=") for part in parts)]


def _simple(part: str) -> bool:
    """Whether a part of a list can stand by itself: a preset, or NAME=NUMBER."""
    return part.strip() in PRESETS or bool(re.fullmatch(r"\s*[A-Za-z0-9_.-]+=[0-9.eE+-]+\s*", part))


class Prompts:
    """What each image is asked.

    Args:
        text: the run's prompt, which may name fields.
        named: in its place, prompts by name: each image is asked all of them.
        weights: or one of them, drawn by the image's seed.
    """

    def __init__(self, text: str, named: Mapping[str, str] | None = None, weights: Mapping[str, float] | None = None):
        self._text, self._named = text, dict(named or {})
        self._has_fields = bool(_FIELD.search(text))
        self._names = list(weights or self._named)
        self._edges = list(itertools.accumulate(weights.values())) if weights else []

    @property
    def per_image(self) -> int:
        """How many items an image makes, unless it has a prompt of its own."""
        return 1 if self._edges else max(1, len(self._named))

    @property
    def endings(self) -> Sequence[str]:
        """Names that stand behind the ids of an image's items; none where an image makes one."""
        return self._names if self.per_image > 1 else ()

    @property
    def plain(self) -> bool:
        """All images are asked the same, the run's prompt as it stands."""
        return not self._named and not self._has_fields

    def of(self, seed: int) -> list[Prompt]:
        """The prompts of an image with this seed, their fields not yet filled in."""
        if not self._named:
            return [Prompt(None, self._text if self._has_fields else None)]
        names = [self._draw(seed)] if self._edges else self._names
        return [Prompt(name, self._named[name]) for name in names]

    def _draw(self, seed: int) -> str:
        """By a hash and not by ``random``, whose numbers are not promised for ever."""
        number = int.from_bytes(blake2b(b"prompt %d" % seed, digest_size=7).digest())
        point = number / 2**56 * self._edges[-1]
        return next(name for name, edge in zip(self._names, self._edges) if point < edge)


def filled(text: str, fields: Mapping[str, Any]) -> str:
    """The prompt with ``{field}`` replaced by the image's own; ``{{field}}`` is ``{field}``, ``{{{field}}}`` its value
    in braces.

    Raises:
        MissingFieldError: the image has no such field, or an empty one.
    """

    def put(found: re.Match) -> str:
        if found[2] is None:
            inner = found[1]
            return "{" + (inner if re.fullmatch(_FIELD_NAME, inner) else filled(inner, fields)) + "}"
        value = fields.get(found[2])
        if is_missing(value):
            raise MissingFieldError(found[2])
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return ", ".join(value)
        return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)

    return _FIELD.sub(put, text)


def placeholders(text: str) -> set[str]:
    """The fields that a prompt names."""
    found = [(one[1], one[2]) for one in _FIELD.finditer(text)]
    inside = (inner for inner, name in found if not name and not re.fullmatch(_FIELD_NAME, inner))
    return {name for _, name in found if name}.union(*map(placeholders, inside))


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing; tables write NaN where a number is missing."""
    return value is None or value == "" or value == [] or value != value


def shown_presets() -> str:
    """A line a preset."""
    return "\n".join(f"{name:<9} {text}" for name, text in PRESETS.items())
