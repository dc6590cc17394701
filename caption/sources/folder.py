"""FolderSource: the pictures below a folder, sorted by id."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from caption.errors import InputError
from caption.image import ENDINGS
from caption.sources.picture import NAMED, Picture, Unread

_Identity = tuple[int, int]
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of Hugging Face's imagefolder


class FolderSource:
    """All files below ``root`` whose names end, in any case, like a picture's.

    A symbolic link to a folder inside ``root`` is not followed, because its pictures are reached by their own path. One
    that leads outside is, unless that folder was read already: so any mesh of links ends. The order is that of the ids
    as strings, whatever the file system's, because an item's seed is its position.

    Args:
        output: never read.
        endings: of the files that are taken, in any case.
        with_metadata: metadata files on the way give their pictures fields.
        details: gives further fields (caption.sources.metadata.Details).

    Raises:
        InputError: ``root`` can't be listed.
    """

    unique = True

    def __init__(
        self, root: Path, output: Path, endings: tuple[str, ...] = ENDINGS, with_metadata: bool = False, details=None
    ):
        self.described = f"folder {shown(root)}"
        self.takes = "it takes files ending in " + " ".join(ending.lstrip(".") for ending in endings)
        self.ignored, self.ignored_first = 0, []
        self.warnings: list[str] = []
        self._root, self._output, self._endings = os.fspath(root), output, endings
        self._with_metadata, self._details = with_metadata, details
        try:
            os.scandir(root).close()
        except OSError as error:
            raise InputError(f"can't read the {self.described}: {error.strerror}", "check its permissions") from error

    def size(self) -> None:
        return None

    def pictures(self) -> Iterator[Picture]:
        from caption.sources.metadata import Metadata

        self.ignored, self.ignored_first = 0, []
        self.warnings.clear()
        metadata = Metadata(self.warnings) if self._with_metadata else None
        for id, where in self._walk(metadata):
            fields, fault = metadata.of(id) if metadata else None, None
            if self._details:
                details, fault = self._details.of(id)
                fields = {**(details or {}), **(fields or {})} or None
            yield Picture(id, id, where, fields, fault)
        if metadata:
            metadata.end()

    def _walk(self, metadata) -> Iterator[tuple[str, str]]:
        """Ids and paths in order; by a stack of its own, because a tree can be deeper than Python may recurse."""
        walk = _Walk(self._identity_of_output(), metadata)
        self._descend(walk, self._root, "")
        while walk.stack:
            level = walk.stack[-1]
            if not level.names:
                walk.stack.pop()
                continue
            name = level.names.pop()
            path = os.path.join(level.path, as_name(name.removesuffix("/")))
            if name.endswith("/"):
                self._descend(walk, path, level.prefix + name, is_link=name in level.links)
            else:
                yield level.prefix + name, path

    def _identity_of_output(self) -> _Identity | None:
        """Looked up as late as the walk, because a run opens its source before it makes the folder."""
        try:
            return _identity(self._output)
        except OSError:
            return None

    def _descend(self, walk: _Walk, path: str, prefix: str, is_link: bool = False) -> None:
        """Puts a folder on the stack, unless it is the output, read elsewhere or not to be read at all."""
        try:
            here = _identity(path)
            above = _identities_above(path) if is_link else {here}
            if here == walk.output or any(level.identity in above for level in walk.stack):
                return
            if not above.isdisjoint(walk.outside):
                self.warnings.append(f"{shown(path)} {'leads to' if is_link else 'is'} a folder that was read already")
                return
            if walk.output in above:
                self.warnings.append(f"{shown(path)} leads into the output folder, which is never read")
                return
            if is_link:
                walk.outside.add(here)
            names, links = self._list(path, prefix, walk.metadata)
        except OSError as error:
            self.warnings.append(Unread(f"can't read the folder {shown(path)}: {error.strerror}"))
            return
        names.sort(reverse=True)
        walk.stack.append(_Level(path, prefix, here, names, links))

    def _list(self, path: str, prefix: str, metadata) -> tuple[list[str], set[str]]:
        """Pictures and folders in a folder, and which of them are links to folders.

        Folders end in "/": "x/" sorts against "x-1" as the ids below them do.
        """
        names, links = [], set()
        with os.scandir(path) as listing:
            for entry in listing:
                if _is_folder(entry):
                    names.append(as_id(entry.name) + "/")
                    if entry.is_symlink():
                        links.add(names[-1])
                elif entry.name.lower().endswith(self._endings):
                    names.append(as_id(entry.name))
                elif metadata and entry.name in _METADATA and entry.is_file():
                    metadata.add(entry.path, prefix)
                else:
                    self.ignored += 1
                    self.ignored_first += [prefix + as_id(entry.name)] * (self.ignored <= NAMED)
        return names, links


@dataclass
class _Walk:
    """Where a walk is.

    Attributes:
        metadata: gets the metadata files that lie on the way, or None.
        stack: the folders on the way down, the root first. What lies in one of them is reached by its own path.
        outside: the folders outside the root that links led to so far.
    """

    output: _Identity | None
    metadata: object = None
    stack: list[_Level] = field(default_factory=list)
    outside: set[_Identity] = field(default_factory=set)


@dataclass
class _Level:
    """A folder on the way down.

    Attributes:
        names: what is still to do, as in the ids, the next one last.
        links: those of them that are links to folders.
    """

    path: str
    prefix: str
    identity: _Identity
    names: list[str]
    links: set[str]


def _identity(path: str | Path) -> _Identity:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _identities_above(link: str) -> set[_Identity]:
    """Of the folder a link leads to, and of all folders that it lies in."""
    path = Path(os.path.realpath(link, strict=True))
    return {_identity(folder) for folder in (path, *path.parents)}


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


_NOT_IN_IDS = re.compile("%(?=25|[89A-F][0-9A-F])|[\udc80-\udcff]")
_ESCAPED = re.compile("%(25|[89A-F][0-9A-F])")


def as_id(name: str) -> str:
    """The name as it stands in ids: an undecodable byte is %XX; where a name itself reads like that, its % is %25."""
    if name.isascii() and "%" not in name:
        return name
    return _NOT_IN_IDS.sub(lambda found: "%25" if found[0] == "%" else f"%{ord(found[0]) - 0xDC00:02X}", name)


def as_name(id: str) -> str:
    """What ``as_id`` was made from: no two names have the same id, whatever siblings they have or will have."""
    return _ESCAPED.sub(lambda found: "%" if found[1] == "25" else chr(0xDC00 + int(found[1], 16)), id)


_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


def shown(path: str | Path) -> str:
    """The path for a line of text: undecodable bytes as \\xff, a newline as \\n."""
    text = os.fspath(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
