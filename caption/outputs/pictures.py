"""Pictures: where the picture of a row lies."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes


def picture_path(root: Path, image: str) -> Path:
    """The file of a row's ``image``; where its name is no UTF-8, the row has %XX for the bytes."""
    path = root / image
    if "%" in image and not os.path.lexists(path):
        raw = root / os.fsdecode(unquote_to_bytes(image))
        return raw if os.path.lexists(raw) else path
    return path


def relative(image: str) -> PurePosixPath | None:
    """Where a row's image has its place below another folder; None if that would lie outside."""
    parts = [part for part in PurePosixPath(image).parts if part not in ("/", ".")]
    return PurePosixPath(*parts) if parts and ".." not in parts else None


def item_name(row: dict) -> str:
    """Name of the prompt, of an item that is one of several of its image; else ""."""
    if name := row.get("prompt_name"):
        return name
    id, image = row["id"], row["image"]
    return id[len(image) + 1 :] if id.startswith(f"{image}#") else ""


def link_or_copy(source: Path, target: Path) -> None:
    """The picture once more at ``target``: a hard link, or a copy where the file systems differ.

    Raises:
        OSError: it can't be read, or another file is there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        if not (os.path.samefile(source, target) or filecmp.cmp(source, target, shallow=False)):
            raise FileExistsError(target)
        return
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        partial.replace(target)


def write_new(target: Path, content: bytes) -> None:
    """The picture's bytes at ``target``, whole or not at all.

    Raises:
        OSError: it can't be written, or another file is there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        if target.read_bytes() != content:
            raise FileExistsError(target)
        return
    partial = target.with_name(f".{target.name}.partial")
    partial.write_bytes(content)
    partial.replace(target)
