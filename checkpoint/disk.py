"""The one seam to the file system: each call that changes it goes through here, so tests can make any of them fail."""

import contextlib
import fcntl
import os
from pathlib import Path

READ_WRITE = os.O_RDWR | os.O_CREAT


def open(path: Path, flags: int = READ_WRITE) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o666)


def close(fd: int) -> None:
    os.close(fd)


def write(fd: int, data: bytes | memoryview, offset: int) -> int:
    """Bytes written, which may be fewer than given."""
    return os.pwrite(fd, data, offset)


def truncate(fd: int, size: int) -> None:
    os.ftruncate(fd, size)


def sync(fd: int) -> None:
    """Data and size on the device. After a failure never trust a second call: the kernel may have dropped the pages."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: its fsync stops at the drive's cache
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def sync_folder(path: Path) -> None:
    """Names in the folder on the device: a new, renamed or removed file is durable only after this."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(source: Path, target: Path) -> None:
    os.replace(source, target)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    path.mkdir(exist_ok=True)


def flock(fd: int, operation: int) -> None:
    fcntl.flock(fd, operation)


def write_all(fd: int, data: bytes, offset: int) -> None:
    """The whole of `data` at `offset`; on an error an unknown part of it was written."""
    view = memoryview(data)
    while view:
        written = write(fd, view, offset)
        view, offset = view[written:], offset + written


def make_folders(path: Path) -> None:
    """The folder and its missing parents, durable."""
    if path.is_dir():
        return
    make_folders(path.parent)
    make_folder(path)
    sync_folder(path.parent)


def touch(path: Path) -> None:
    os.utime(path)
