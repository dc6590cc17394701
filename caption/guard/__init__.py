"""Guard: is this text a caption? Each doubt is a flag in the row; what was asked to be taken off is taken off.

What each flag means, the lists, and how often the guard is right: README.md beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from caption.guard.actions import FLAGS
from caption.guard.answer import asks_for_json, is_echo, parses, thought_out
from caption.guard.language import is_wrong_language
from caption.guard.loops import is_flood, is_loop
from caption.guard.refusal import is_refusal
from caption.guard.trim import ends_a_sentence, strip_preamble, trim_to_sentence


@dataclass(frozen=True)
class GuardOptions:
    """What is asked of a caption, and what is taken off it. Fields are the settings of the same names."""

    prompt: str
    language: str | None = None
    trim_to_sentence: bool = False
    strip_preamble: bool = False
    prefix: str = ""
    suffix: str = ""


class Verdict(NamedTuple):
    """Attributes:
    caption: the text as the row has it.
    raw: the text untouched, or None if it is the caption.
    flags: of ``FLAGS``, in their order.
    """

    caption: str
    raw: str | None
    flags: tuple[str, ...]


def judge(
    text: str,
    finish_reason: str,
    options: GuardOptions,
    prompt: str | None = None,
    flags: tuple[str, ...] = (),
) -> Verdict:
    """Makes a caption of what the engine gave, and says what is doubtful about it.

    Args:
        prompt: the item's own, in place of the run's.
        flags: those of the engine.
    """
    prompt = options.prompt if prompt is None else prompt
    wants_json = asks_for_json(prompt)
    caption = thought_out(text)
    if options.strip_preamble:
        caption = strip_preamble(caption)
    if options.trim_to_sentence and finish_reason == "length" and not wants_json:
        caption = trim_to_sentence(caption)
    found = {*flags, *check(caption, finish_reason, prompt, options.language)}
    if caption and (options.prefix or options.suffix):
        caption = f"{options.prefix}{caption}{options.suffix}"
    return Verdict(caption, None if caption == text else text, tuple(flag for flag in FLAGS if flag in found))


def check(text: str, finish_reason: str, prompt: str, language: str | None = None) -> tuple[str, ...]:
    """The flags of a text, in the order of ``FLAGS``. Takes some tens of microseconds."""
    if not text.strip(_BLANK):
        return ("empty", "cut-off") if finish_reason == "length" else ("empty",)
    wants_json = asks_for_json(prompt)
    well_formed = wants_json and parses(text)
    flood = is_flood(text)
    found = {
        "pad-flood": flood,
        "loop": not flood and is_loop(text),
        "refusal": not flood and is_refusal(text),
        "echo": is_echo(text, prompt),
        "bad-json": wants_json and not well_formed,
        "wrong-language": language is not None and not flood and is_wrong_language(text, language),
        "cut-off": finish_reason == "length" and not well_formed and not ends_a_sentence(text),
    }
    return tuple(flag for flag in FLAGS if found.get(flag))


_BLANK = " \t\r\n\v\f\u00a0\u3000\u200b\u200c\u200d\u2060\ufeff"  # spaces, and what has no width
