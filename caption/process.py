"""Process: how child processes are started and how they end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from caption.channel import Channel

PACKAGE_ROOT = str(Path(__file__).resolve().parents[1])
_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_PR_SET_PDEATHSIG = 1
_FRAME = re.compile(r'\s*File "(.+)", line (\d+) in (\S+)')
VMSTAT = Path("/proc/vmstat")
LAST_SECONDS = 5.0  # that a process gets to end after it was killed, or has said its last word
_MOST_WORDS = 1 << 20  # bytes of printed text kept of a child


@contextlib.contextmanager
def stop_signals_blocked():
    """A child inherits the mask, so that a Ctrl-C before its first line prints no traceback of the interpreter."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_stopping_to_parent(with_parent: bool) -> None:
    """In a child: a Ctrl-C or SIGTERM to the whole process group is the coordinator's to answer.

    Args:
        with_parent: also be killed by the kernel (Linux) when the thread that started this process ends, because
            code that never returns to Python would not notice the closed channel.
    """
    for stop in _STOP_SIGNALS:
        signal.signal(stop, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    if with_parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A child process with a channel, its error output kept for the message that says why it died.

    Args:
        module: started as ``python -m module FD …``, FD being its end of the channel.
        environment: variables to add to this process's own; None removes one.
        descriptors: given to it; their numbers follow FD.

    Attributes:
        taken: its machine went, so nothing that it held can be the reason of its end; never for one of this machine.
        load: figures of it from its own machine; None for one of this machine, which the coordinator looks at itself.
    """

    taken, load = False, None

    def __init__(self, module: str, environment: dict[str, str | None], descriptors: Sequence[int] = ()):
        env = {**os.environ, **{key: value for key, value in environment.items() if value is not None}}
        for key, value in environment.items():
            if value is None:
                env.pop(key, None)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
        ours, theirs = socket.socketpair()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        self._told = 0  # bytes of them
        given = [theirs.fileno(), *descriptors]
        with theirs, stop_signals_blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, given)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=given,
            )
        self.channel = Channel(ours)
        self._oom_kills = _oom_kills()

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def killed(self) -> bool:
        """Whether a SIGKILL has ended it."""
        return self._process.poll() == -signal.SIGKILL

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def join(self, timeout: float) -> bool:
        """Waits up to ``timeout`` seconds for the end; True if it has ended."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _likely_reason(self) -> str:
        """Nobody is told who sent a SIGKILL, but the kernel counts its own."""
        if None in (before := self._oom_kills, now := _oom_kills()) or now == before:
            return ", perhaps by the kernel for want of memory"
        return ", most likely by the kernel for want of memory"

    def close(self) -> None:
        """Kills it if it still runs, and frees what the parent holds of it. One that can't be killed, because it hangs
        in the kernel, is left behind."""
        self.kill()
        self.join(LAST_SECONDS)
        self.channel.close()
        self._words.close()

    def stopped(self) -> bool:
        """Whether somebody has stopped it (SIGSTOP, a debugger)."""
        import psutil  # here, because every loader imports this file

        try:
            return psutil.Process(self.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        except psutil.Error:
            return False

    def whereabouts(self, wait: float = 0.5) -> str:
        """What its main thread is doing, as "read in PIL/ImageFile.py, line 12"; "" if it does not say in time.

        Only for a child that writes its stack on SIGUSR1; it ends any other.
        """
        begin, deadline = os.fstat(self._words.fileno()).st_size, time.monotonic() + wait
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)
        frame = None
        while not frame and time.monotonic() < deadline:
            time.sleep(0.02)
            printed = os.pread(self._words.fileno(), _MOST_WORDS, begin).decode(errors="replace")
            frame = _FRAME.match(printed.rpartition("(most recent call first):\n")[2])  # the main thread comes last
        if not frame:
            return ""
        path, line, function = frame.groups()
        return f"{function} in {'/'.join(Path(path).parts[-2:])}, line {line}"

    def forget_words(self) -> None:
        """Drops what it printed so far if that is much: libraries can warn at every image for a week."""
        if os.fstat(self._words.fileno()).st_size > _MOST_WORDS:
            self._words.seek(0)  # the child writes at the same position: it is shared
            self._words.truncate()
            self._told = 0

    def new_words(self, most: int = 20) -> list[str]:
        """Whole lines that it has printed since the last call; of a flood the last ``most``."""
        new = os.pread(self._words.fileno(), _MOST_WORDS, self._told)  # the position is the child's, too
        whole = new[: new.rfind(b"\n") + 1]
        self._told += len(whole)
        return [line for line in whole.decode(errors="replace").splitlines() if line.strip()][-most:]

    def last_words(self, limit: int = 300) -> str:
        """How it ended: the signal or exit status, and the last line that it printed."""
        status = self._process.poll()
        if status is None:
            how = "stopped answering"
        elif status < 0:
            name = signal.Signals(-status).name if -status in signal.valid_signals() else f"signal {-status}"
            how = f"was killed by {name}{self._likely_reason() if -status == signal.SIGKILL else ''}"
        else:
            how = f"ended with status {status}"
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - 4096))
        lines = [line for line in self._words.read().decode(errors="replace").splitlines() if line.strip()]
        return f"{how} ({lines[-1].strip()[:limit]})" if lines and status else how


def _oom_kills() -> int | None:
    """Processes that the kernel (Linux) has killed since the machine started because memory ran out."""
    with contextlib.suppress(OSError, ValueError):
        for line in VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def child_socket() -> socket.socket:
    """In a child started by ``Child``: its end of the channel, closed for its own children.

    Raises:
        EOFError: the parent is gone; before ``leave_stopping_to_parent`` the kernel did not tell.
    """
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    poll = select.poll()
    poll.register(sock, 0)  # a hang-up is told in any case, also while there is something to read
    if any(event & select.POLLHUP for _, event in poll.poll(0)):
        raise EOFError("the parent is gone")
    return sock
