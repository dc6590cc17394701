"""A disk that breaks one thing: it stands in for `checkpoint.disk`, works on real files, and fails where a test says.

It also remembers what was not synced, and can lay out what a power cut might have left of it.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from checkpoint import disk

KINDS = ["open", "close", "write", "truncate", "sync", "sync_folder", "replace", "remove", "make_folder"]
SECTOR = 64  # smaller than real ones, so that small test rows are torn as large real ones are


class Crash(BaseException):
    """The process died here; no `except OSError` of the code under test may see it."""


class Dead(Exception):
    """A call of the dead process on its way out: it has no effect."""


@dataclass(frozen=True)
class Call:
    number: int  # of all calls that change something, from 0
    kind: str  # name of the function in `checkpoint.disk`
    file: str  # name of the file or folder


@dataclass
class Inode:
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data), or (size, None): truncate

    def after_power_cut(self, choose: Callable[[int], int]) -> bytes:
        content = bytearray(self.synced)
        for offset, data in self.pending:
            if data is None:
                if choose(2):
                    _resize(content, offset)
                continue
            fate = choose(3)  # 0: lost, 1: written, 2: each sector for itself
            for start in range(0, len(data), SECTOR):
                if fate == 1 or (fate == 2 and choose(2)):
                    piece = data[start : start + SECTOR]
                    _resize(content, max(len(content), offset + start + len(piece)))
                    content[offset + start : offset + start + len(piece)] = piece
        return bytes(content)


@dataclass(eq=False)
class Change:
    """`path` came to name `inode` (None: nothing); `cause`: the other half of the rename it belongs to."""

    path: Path
    inode: Inode | None
    cause: "Change | None" = None


class FakeDisk:
    """on_call sees each call first: it may raise, or return how many bytes of a write are written before a crash."""

    def __init__(self):
        self.on_call: Callable[[Call], int | None] = lambda call: None
        self.calls: list[Call] = []
        self.dead = False
        self._paths: dict[int, Path] = {}  # of open descriptors
        self._inodes: dict[Path, Inode] = {}  # as a running program sees it
        self._durable: dict[Path, Inode | None] = {}  # as the names stand on the device
        self._changes: list[Change] = []  # of names, not synced yet

    @contextlib.contextmanager
    def installed(self) -> Iterator["FakeDisk"]:
        with mock.patch.multiple(disk, **{kind: getattr(self, kind) for kind in KINDS}):
            yield self

    def crash(self, at: Callable[[Call], bool], torn: int | None = None) -> None:
        """Lets the process die at the first call for which `at` holds; a write may leave `torn` bytes."""

        def on_call(call: Call) -> int | None:
            if not at(call):
                return None
            if torn is None or call.kind != "write":
                raise Crash
            return torn

        self.on_call = on_call

    def fail(self, at: Callable[[Call], bool], code: int) -> None:
        """Lets each call for which `at` holds fail with OSError `code`."""

        def on_call(call: Call) -> None:
            if at(call):
                raise OSError(code, errno.errorcode[code], call.file)

        self.on_call = on_call

    def restart(self) -> None:
        """After a crash or failures: calls work again."""
        self.dead, self.on_call = False, lambda call: None

    # What stands in for the functions of checkpoint.disk -------------------------------------------------------------

    def open(self, path: Path, flags: int = disk.READ_WRITE) -> int:
        created = not path.exists()
        if created:
            self._called("open", path)
        fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        self._paths[fd] = path
        if created:
            self._inodes[path] = Inode()
            self._changes.append(Change(path, self._inodes[path]))
        return fd

    def close(self, fd: int) -> None:
        os.close(fd)

    def write(self, fd: int, data: bytes, offset: int) -> int:
        path = self._paths[fd]
        try:
            part = self._called("write", path)
        except Dead:
            return len(data)
        written = bytes(data[:part])
        self._inode(path).pending.append((offset, written))
        os.pwrite(fd, written, offset)
        if part is not None:
            self.dead = True
            raise Crash
        return len(data)

    def truncate(self, fd: int, size: int) -> None:
        if os.fstat(fd).st_size != size:
            with contextlib.suppress(Dead):
                self._called("truncate", self._paths[fd])
                self._inode(self._paths[fd]).pending.append((size, None))
                os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        with contextlib.suppress(Dead):
            self._called("sync", self._paths[fd])
            inode = self._inode(self._paths[fd])
            inode.synced, inode.pending = os.pread(fd, os.fstat(fd).st_size, 0), []

    def sync_folder(self, path: Path) -> None:
        with contextlib.suppress(Dead):
            self._called("sync_folder", path)
            for change in [change for change in self._changes if change.path.parent == path]:
                self._settle(change)

    def replace(self, source: Path, target: Path) -> None:
        with contextlib.suppress(Dead):
            self._called("replace", target)
            inode, _ = self._inode(source), self._inode(target) if target.exists() else None
            os.replace(source, target)
            self._inodes[target] = self._inodes.pop(source)
            self._changes.append(Change(target, inode))
            self._changes.append(Change(source, None, cause=self._changes[-1]))

    def remove(self, path: Path) -> None:
        if path.exists():
            with contextlib.suppress(Dead):
                self._called("remove", path)
                self._inode(path)
                path.unlink()
                del self._inodes[path]
                self._changes.append(Change(path, None))

    def make_folder(self, path: Path) -> None:
        with contextlib.suppress(Dead):
            self._called("make_folder", path)
            path.mkdir(exist_ok=True)

    # Power cuts ------------------------------------------------------------------------------------------------------

    def cut_power(self, root: Path, target: Path, choose: Callable[[int], int]) -> None:
        """Lays out in `target` what the device may hold of `root`: all that was synced, the rest as `choose` says.

        choose(n) gives a number below n. Changes of different names are kept or lost in any order, those of one name in
        theirs; a rename is atomic. Contents lose writes and sectors of writes in any order; holes read as NUL.
        """
        for path in root.rglob("*"):
            if path.is_file():
                self._inode(path)
        names, kept, lost = dict(self._durable), set(), set()
        for change in self._changes:
            if change.path in lost or (change.cause and change.cause not in kept) or not choose(2):
                lost.add(change.path)
            else:
                kept.add(change)
                names[change.path] = change.inode
        target.mkdir()
        for folder in sorted(path for path in root.rglob("*") if path.is_dir()):
            (target / folder.relative_to(root)).mkdir()
        for path, inode in names.items():
            if inode is not None:
                (target / path.relative_to(root)).write_bytes(inode.after_power_cut(choose))

    def _called(self, kind: str, path: Path) -> int | None:
        if self.dead:
            raise Dead
        call = Call(len(self.calls), kind, path.name)
        self.calls.append(call)
        try:
            return self.on_call(call)
        except Crash:
            self.dead = True
            raise

    def _inode(self, path: Path) -> Inode:
        if path not in self._inodes:  # was there before the fake was
            self._inodes[path] = self._durable[path] = Inode(path.read_bytes())
        return self._inodes[path]

    def _settle(self, change: Change) -> None:
        if change in self._changes:
            if change.cause:
                self._settle(change.cause)
            self._changes.remove(change)
            self._durable[change.path] = change.inode


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))
