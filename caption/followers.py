"""Followers: exports that write while a run goes on, each a process of its own that only reads what is committed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

from caption.console import say
from caption.outputs.formats import parse_formats
from caption.process import PACKAGE_ROOT, stop_signals_blocked
from caption.settings import Settings


class Followers:
    """Started when made; ``close`` lets them write what is left. One that breaks down costs the run nothing.

    Attributes:
        exit_code: after ``close``: 0, or that of an export that did not end well.
    """

    def __init__(self, settings: Settings):
        self.exit_code = 0
        self._commands = {}
        for name, beside in parse_formats(settings.format):
            words = [settings.output, "--to", name, *(["--beside"] if beside else [])]
            self._commands[f"{name}:beside" if beside else name] = words
        self._running = {name: _start([*words, "--follow"]) for name, words in self._commands.items()}

    def close(self) -> None:
        for process in self._running.values():
            with contextlib.suppress(OSError):
                process.stdin.close()
        for name, process in self._running.items():
            code = process.wait()
            if code:
                self.exit_code = self.exit_code or (code if code > 0 else 5)
                say(f"The export to {name} is not whole: python -m caption.export {' '.join(self._commands[name])}")


def _start(words: list[str]) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, [PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
    with stop_signals_blocked():
        return subprocess.Popen(
            [sys.executable, "-m", "caption.export", *words],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
