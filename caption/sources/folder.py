"""FolderSource: the pictures below a folder, sorted by id."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
        self.described = f"folder {root}"
        self.ignored = 0
        self.warnings: list[str] = []
        self._root, self._seed = os.fspath(root), seed
        self._output = _identity(output)
        try:
            os.scandir(root).close()
        except OSError as error:
            raise InputError(f"can't read the folder {root}: {error.strerror}", "check its permissions") from error

    def items(self) -> Iterator[Item]:
        self.ignored = 0
        self.warnings.clear()
        for index, (id, where) in enumerate(self._walk(self._root, "", [])):
            yield Item(index, id, id, where, self._seed + index)

    def _walk(self, folder: str, prefix: str, above: list[tuple[int, int]]) -> Iterator[tuple[str, str]]:
        here = _identity(folder)
        if here is None or here in above or here == self._output:
            return
        try:
            with os.scandir(folder) as listing:
                entries = [(entry.name, _is_folder(entry)) for entry in listing]
        except OSError as error:
            self.warnings.append(f"can't read the folder {_shown(folder)}: {error.strerror}")
            return
        names = {name for name, _ in entries}
        shown = [(_unique_name(name, names), name, is_folder) for name, is_folder in entries]
        # "x/" sorts against "x-1" as the ids below them do.
        for id_name, name, is_folder in sorted(shown, key=lambda e: e[0] + "/" if e[2] else e[0]):
            path = os.path.join(folder, name)
            if is_folder:
                yield from self._walk(path, f"{prefix}{id_name}/", [*above, here])
            elif name.lower().endswith(ENDINGS):
                yield prefix + id_name, path
            else:
                self.ignored += 1


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _shown(name: str) -> str:
    """The name with its undecodable bytes as %XX."""
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)


def _unique_name(name: str, siblings: set[str]) -> str:
    """The name in ids; lower-case hex where a sibling is literally called what %XX would make of it."""
    shown = _shown(name)
    if shown != name and shown in siblings:
        return "".join(f"%{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)
    return shown
