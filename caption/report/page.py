"""Page: templates to one file that needs nothing else, and in which no text from outside is more than text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import checkpoint
from caption.errors import DiskError, OutputError
from caption.report.cards import clean, name
from caption.report.figures import duration, gigabytes, number, percent
from caption.report.scored import score
from checkpoint import durable

LARGEST = 9_900_000  # bytes of a page
_LETTERS = (2000, 1000, 500, 250, 100)  # of a text in the gallery; the first with which the page is not too large
_TEMPLATES = Path(__file__).parent / "templates"
_MARK = b"<!doctype html><!-- made by caption -->"  # by which a page of ours is known


def render(template: str, cards: Callable[[int], list], **content: Any) -> bytes:
    """A page of at most ``LARGEST`` bytes, however long the captions are.

    Only the script of the page itself runs in it: its hash stands in the page's own security policy.

    Args:
        cards: makes those of the gallery, with so many letters of a text at most.
        content: what else the template asks for.
    """
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clean": clean, "name": name, "percent": percent, "number": number, "duration": duration,
        "gigabytes": gigabytes, "count": "{:,}".format, "score": score,
    }  # fmt: skip
    style = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    content |= {"style": style, "script": Markup(script), "digest": digest}
    for letters in _LETTERS:
        page = environment.get_template(template).render(**content, cards=cards(letters)).encode("utf-8", "replace")
        if len(page) < LARGEST:
            break
    return _MARK + b"\n" + page


def write(path: Path, page: bytes) -> None:
    """Puts the page there, whole or not at all.

    Raises:
        OutputError: a file that is no page of ours is there, or the folder can't be written to.
        DiskError: the disk is full.
    """
    try:
        if path.exists() and not _is_ours(path):
            raise OutputError(f"{path} is there and is no page of this program", "choose another --to")
        durable.write(path, page)
    except OSError as error:
        problem = f"can't write {path}: {error.strerror or error}"
        if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError | IsADirectoryError):
            raise OutputError(problem, "choose another place with --to") from error
        raise DiskError(problem, "mend this, or choose another place with --to") from error
    except checkpoint.Full as error:
        raise DiskError(f"can't write {path}: {error}", "free it, or choose another place with --to") from error


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK
