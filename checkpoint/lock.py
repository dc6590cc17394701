"""One writer a folder: a lock that dies with its holder."""

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import time
import weakref
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from . import disk
from .errors import Busy, Error, full

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
LEASE = 120.0  # seconds without a heartbeat until a lock of a file system without locks counts as dead
HEARTBEAT = 10.0  # seconds between two of them
SETTLE = 1.0  # seconds until of two runs starting at once on such a file system only the last to write remains

_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()


@dataclass(frozen=True)
class Holder:
    """Who wrote the lock file: `since` is UTC in ISO 8601, `token` is random and differs for each run."""

    host: str
    pid: int
    since: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Lost(Error):
    """The lock file no longer names this run: another run took the folder over, or it was removed."""

    def __init__(self, path: Path, holder: Holder | None):
        super().__init__(f"{path} now belongs to {holder}" if holder else f"{path} was removed or emptied")
        self.holder = holder


class Lock:
    """The lock `path`, held from construction to `release`.

    flock(2) where the file system has it: the kernel drops it when the holder dies, and Linux NFS clients turn it into
    a lock on the server. Elsewhere a lease: the file's time, renewed by `beat`, younger than LEASE seconds.
    Raises `Busy`, `Full`, OSError.
    """

    def __init__(self, path: Path):
        self.path = path
        self._fd = disk.open(path)
        try:
            self._leased = not _flock(self._fd, path)
            if self._leased and _fresh(path):
                raise Busy(read(path))
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.holder = Holder(socket.gethostname(), os.getpid(), now, secrets.token_hex(8))
            data = orjson.dumps(asdict(self.holder)) + b"\n"
            with full(len(data), path):
                disk.truncate(self._fd, 0)
                disk.write_all(self._fd, data, 0)
            if self._leased:
                time.sleep(SETTLE)
                self.confirm()
        except BaseException:
            disk.close(self._fd)
            raise
        self._beaten = time.monotonic()
        _held.add(self)

    def confirm(self) -> None:
        """Raises `Lost` unless the file still names this run: finds out where locks turn out not to reach."""
        holder = read(self.path)
        if holder != self.holder:
            raise Lost(self.path, holder)

    def beat(self) -> None:
        """Renews a lease; call it at least every 30 s. Does nothing where the lock is a real one. Raises `Lost`."""
        if self._leased and time.monotonic() - self._beaten >= HEARTBEAT:
            self.confirm()
            disk.touch(self.path)
            self._beaten = time.monotonic()

    def release(self) -> None:
        _held.discard(self)
        try:
            if read(self.path) == self.holder:
                disk.truncate(self._fd, 0)  # an empty file says: closed in order
        except OSError:
            pass  # the kernel's lock goes with the descriptor; a lease runs out
        finally:
            disk.close(self._fd)


def read(path: Path) -> Holder | None:
    """Who wrote the lock file last and has not closed in order; None if nobody, or it is unreadable."""
    try:
        return Holder(**orjson.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def alive(path: Path) -> bool:
    """Whether a run holds the lock now, on this machine or, as far as the file system's locks reach, another."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # held for microseconds; `_flock` tries more than once
        return False
    except OSError as error:
        return _fresh(path) if error.errno in NO_LOCKS else True
    finally:
        os.close(fd)


def _flock(fd: int, path: Path) -> bool:
    """False if the file system has no locks. Raises `Busy`."""
    for attempt in range(3):
        try:
            disk.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        if attempt < 2:
            time.sleep(0.05)
    raise Busy(read(path))


def _fresh(path: Path) -> bool:
    return read(path) is not None and abs(time.time() - path.stat().st_mtime) < LEASE


def _forget() -> None:
    """In a forked child: its copies of the descriptors would keep the locks after the parent's death."""
    for lock in list(_held):
        with contextlib.suppress(OSError):
            os.close(lock._fd)


os.register_at_fork(after_in_child=_forget)
