"""Cards: rows as the page shows them, with their pictures; what comes from outside is cut and made harmless here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from caption.choose.scores import PARTS, SCORE, parts
from caption.console import say
from caption.outputs.archived import Archived
from caption.report.figures import number
from caption.report.folder import Folder
from caption.report.gallery import Card
from caption.report.scored import score
from caption.report.thumbnails import Missing, Thumbnail, thumbnails

ROOM = 5_000_000  # bytes of all pictures of a page
_TEXT, _NAME = 2000, 300  # letters shown at most of a caption, of a name
_MOST_PARTS = 20  # of a score
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")
_DIRECTION = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # marks that turn the letters after them


def clean(text: object, most: int = _TEXT) -> str:
    """A text without control characters, and how long it was where it is cut."""
    text = str(text)
    cut = text if len(text) <= most else f"{text[:most]}… ({len(text):,} letters)"
    return _CONTROL.sub("\ufffd", cut)


def name(text: object) -> str:
    """A name, whose marks of direction are shown, so that no name looks like another."""
    return _DIRECTION.sub(lambda mark: f"[U+{ord(mark[0]):04X}]", clean(text, _NAME))


class Shown(NamedTuple):
    """A row on the page.

    Attributes:
        sets: by which the gallery filters.
        text: the caption, or of a failed image why.
        picture: None where it was not looked for.
        value, score: its score, and in words; 0 and "" if it has none.
        facts: (name, value) for the one who opens the card.
    """

    id: str
    sets: list[str]
    text: str
    failed: bool
    flags: list[str]
    prompt: str
    picture: Thumbnail | Missing | None
    facts: list[tuple[str, str]]
    value: float
    score: str


def shown(card: Card, picture: Thumbnail | Missing | None, scored: dict[str, Any] | None, letters: int) -> Shown:
    """scored: its row of scores; letters: shown of the caption at most."""
    row = card.row
    text = row.get("message", "no reason was noted") if card.failed else row["caption"]
    flags = [row["error"]] if card.failed else list(row["flags"])
    prompt = name(row.get("prompt_name") or "")
    words = clean(text, letters)
    value, said = (row[SCORE], score(row[SCORE])) if SCORE in row else (0.0, "")
    known = facts(row, scored, letters)
    return Shown(name(row["id"]), card.sets, words, card.failed, flags, prompt, picture, known, value, said)


def facts(row: dict[str, Any], scored: dict[str, Any] | None, letters: int) -> list[tuple[str, str]]:
    """What else stands in a row, and in its row of scores if it has one; of long texts half as much as ``letters``."""
    found = [("image", name(row["image"]))] if row["image"] != row["id"] else []
    if scored and SCORE in row:
        found.append(("score", f"{score(row[SCORE])} by {name(scored.get('scorer', 'an unknown scorer'))}"))
        found += [(name(f"{PARTS}{part}"), score(value)) for part, value in list(parts(scored).items())[:_MOST_PARTS]]
    if "width" in row:
        found.append(("size", f"{row['width']} × {row['height']}"))
    if "tokens" in row:
        ended = " (cut at the limit)" if row.get("finish_reason") == "length" else ""
        found.append(("tokens", f"{row['tokens']:,}{ended}"))
    if row.get("seconds"):
        found.append(("seconds", number(row["seconds"])))
    found += [(key, clean(row[key], _NAME)) for key in ("seed", "twin_of") if key in row]
    if row.get("attempts", 1) > 1:
        found.append(("attempts", str(row["attempts"])))
    found += [("retry", clean(f"{one['reason']}: {one['changed']}", _NAME)) for one in row.get("retries", ())[:9]]
    if row.get("prompt"):
        found.append(("prompt", clean(row["prompt"], letters // 2)))
    if row.get("raw") is not None:
        found.append(("raw text", clean(row["raw"], letters // 2)))
    if row.get("extra"):
        found.append(("extra", clean(orjson.dumps(row["extra"]).decode(), letters // 2)))
    return found


def pictures_of(
    rows: Sequence[dict[str, Any]], folder: Folder, root: Path | None, tell: Callable[[str], None] = say
) -> dict[str, Thumbnail | Missing]:
    """The pictures of some rows, by their ids."""
    root = root or folder.picture_root
    if root is None:
        return {row["id"]: Missing("where the pictures lie is not known", "Vanished") for row in rows}
    archived = Archived(folder.out, root, {row["id"] for row in rows})
    places, missing = {}, {}
    for row in rows:
        try:
            places[row["id"]] = archived.place(row)
        except OSError:
            missing[row["id"]] = Missing("the picture is not where it was", "Vanished")
    if places:
        tell(f"Reading {len(places):,} pictures for the gallery.")
    return missing | thumbnails(dict(sorted(places.items(), key=lambda item: str(item[1]))), ROOM)
