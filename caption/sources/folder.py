"""FolderSource: the pictures below a folder, sorted by id."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caption.errors import InputError
from caption.image import ENDINGS
from caption.item import Item


class FolderSource:
    """All files below ``root`` whose names end, in any case, like a picture's.

    Folders behind symbolic links are read too, each at most once on a way down, so a loop ends. The order is that of
    the ids as strings, whatever the file system's, because an item's seed is its position.

    Raises:
        InputError: ``root`` can't be listed.
    """

    def __init__(self, root: Path, seed: int, output: Path):
        self.described = f"folder {_shown(os.fspath(root))}"
        self.ignored = 0
        self.warnings: list[str] = []
        self._root, self._seed, self._output = os.fspath(root), seed, output
        try:
            os.scandir(root).close()
        except OSError as error:
            raise InputError(f"can't read the {self.described}: {error.strerror}", "check its permissions") from error

    def items(self) -> Iterator[Item]:
        self.ignored = 0
        self.warnings.clear()
        for index, (id, where) in enumerate(self._walk()):
            yield Item(index, id, id, where, self._seed + index)

    def _walk(self) -> Iterator[tuple[str, str]]:
        """Ids and paths in order; by a stack of its own, because a tree can be deeper than Python may recurse."""
        output = self._identity_of_output()
        stack: list[_Level] = []
        self._descend(stack, self._root, "", output)
        while stack:
            level = stack[-1]
            if not level.names:
                stack.pop()
                continue
            name = level.names.pop()
            path = os.path.join(level.path, level.undecodable.get(name, name).removesuffix("/"))
            if name.endswith("/"):
                self._descend(stack, path, level.prefix + name, output)
            else:
                yield level.prefix + name, path

    def _identity_of_output(self) -> tuple[int, int] | None:
        """Looked up as late as the walk, because a run opens its source before it makes the folder."""
        try:
            return _identity(self._output)
        except OSError:
            return None

    def _descend(self, stack: list[_Level], path: str, prefix: str, output: tuple[int, int] | None) -> None:
        """Puts a folder on the stack, unless it is the output, above itself or not to be read."""
        try:
            here = _identity(path)
            if here == output or any(level.identity == here for level in stack):
                return
            names = self._names(path)
        except OSError as error:
            self.warnings.append(f"can't read the folder {_shown(path)}: {error.strerror}")
            return
        undecodable = _readable(names)
        names.sort(reverse=True)
        stack.append(_Level(path, prefix, here, names, undecodable))

    def _names(self, path: str) -> list[str]:
        """Pictures and folders in a folder. Folders end in "/": "x/" sorts against "x-1" as the ids below them do."""
        names = []
        with os.scandir(path) as listing:
            for entry in listing:
                if _is_folder(entry):
                    names.append(entry.name + "/")
                elif entry.name.lower().endswith(ENDINGS):
                    names.append(entry.name)
                else:
                    self.ignored += 1
        return names


@dataclass
class _Level:
    """A folder on the way down.

    Attributes:
        names: what is still to do, the next one last.
        undecodable: the names whose bytes are no UTF-8, as in ids -> as the system calls them.
    """

    path: str
    prefix: str
    identity: tuple[int, int]
    names: list[str]
    undecodable: dict[str, str]


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _readable(names: list[str]) -> dict[str, str]:
    """Replaces the undecodable names by valid ones that no sibling has; returns those with what they replace.

    A sibling can literally be called what %XX makes of a name: then it becomes %%XX.
    """
    places = [place for place, name in enumerate(names) if not _is_text(name)]
    if not places:
        return {}
    taken, undecodable = set(names), {}
    for place in sorted(places, key=names.__getitem__):
        name, mark = names[place], "%"
        while (shown := _shown(name, mark)) in taken:
            mark += "%"
        taken.add(shown)
        undecodable[shown] = name
        names[place] = shown
    return undecodable


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str, mark: str = "%") -> str:
    """The name with its undecodable bytes as %XX."""
    if _is_text(name):
        return name
    return "".join(f"{mark}{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)
