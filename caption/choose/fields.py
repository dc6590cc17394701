"""Fields: what a condition may ask of a caption."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from caption.choose.scores import PARTS, SCORE
from caption.report.words import words_of

NUMBER, TEXT, TRUTH, LIST, ANY = "a number", "a text", "true or false", "a list", "any value"
EXTRA = "extra."

_IN_ROW = {
    "id": TEXT, "image": TEXT, "caption": TEXT, "raw": TEXT, "finish_reason": TEXT, "prompt": TEXT,
    "prompt_name": TEXT, "twin_of": TEXT, "lora": TEXT, "tokens": NUMBER, "width": NUMBER, "height": NUMBER,
    "seed": NUMBER, "seconds": NUMBER, "attempts": NUMBER, "lora_scale": NUMBER, "flags": LIST,
}  # fmt: skip
_COUNTED: dict[str, Callable[[dict[str, Any]], int]] = {
    "words": lambda row: len(words_of(row["caption"])),
    "characters": lambda row: len(row["caption"]),
}
KNOWN = (*_IN_ROW, *_COUNTED, SCORE, f"{PARTS}NAME", f"{EXTRA}NAME")


@dataclass(frozen=True)
class Field:
    """Attributes:
    name: as it is written; "score" and "parts.NAME" come from ``scores.jsonl``.
    kind: NUMBER, TEXT, LIST, or ANY where only the row tells.
    of: its value in a row of ``captions.jsonl``, to which scores were added under their names; None: it has none.
    """

    name: str
    kind: str
    of: Callable[[dict[str, Any]], Any]

    @property
    def of_scores(self) -> bool:
        return self.name == SCORE or self.name.startswith(PARTS)


def find_field(path: tuple[str, ...], extra: Collection[str] = ()) -> Field | None:
    """The field of this path (("extra", "source") for extra.source); None if there is none.

    Args:
        extra: names in the rows' ``extra`` that may also stand without "extra." before them.
    """
    name, rest = path[0], path[1:]
    if name == "parts" and len(rest) == 1:
        column = PARTS + rest[0]
        return Field(column, NUMBER, lambda row: row.get(column))
    if name == "extra" and rest:
        return Field(".".join(path), ANY, _inside(rest))
    if not rest:
        if name in _COUNTED:
            return Field(name, NUMBER, _COUNTED[name])
        if name == SCORE or name in _IN_ROW:
            return Field(name, _IN_ROW.get(name, NUMBER), lambda row: row.get(name))
    if name in extra:
        return Field(EXTRA + ".".join(path), ANY, _inside(path))
    return None


def _inside(path: tuple[str, ...]) -> Callable[[dict[str, Any]], Any]:
    def value(row: dict[str, Any]) -> Any:
        found = row.get("extra")
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    return value
