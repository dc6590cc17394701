"""Replacing a small file so that any crash leaves the whole old one or the whole new one."""

import contextlib
from pathlib import Path

from . import disk
from .errors import full


def temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def write(path: Path, data: bytes) -> None:
    """Puts `data` at `path`: temp file in the same folder, fsync, rename, fsync of the folder.

    One writer a path. Raises `Full` or OSError; the old content then stands, unless only the last fsync failed.
    """
    temp = temporary(path)
    with full(len(data), path):
        try:
            fd = disk.open(temp)
            try:
                disk.truncate(fd, 0)
                disk.write_all(fd, data, 0)
                disk.sync(fd)
            finally:
                disk.close(fd)
            disk.replace(temp, path)
        except OSError:
            with contextlib.suppress(OSError):
                disk.remove(temp)
            raise
        disk.sync_folder(path.parent)
