"""RunFile: ``run.json``, the job's fingerprint and one entry a run."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import socket
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

import checkpoint
from caption import __version__
from caption.errors import Damaged
from checkpoint import durable

_INDENTED = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "pillow", "numpy", "tokenizers")


def now() -> str:
    """UTC, to the second, as in 2026-05-01T12:00:00Z."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Versions of what can change a caption, without importing it."""
    found = {"caption": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _valid(value: Any) -> Any:
    """The same with valid text: paths are bytes to Linux, and no JSON."""
    if isinstance(value, dict):
        return {name: _valid(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(part) for part in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _here() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _typed() -> list[str] | None:
    """The words after ``python -m caption.run``; None if the run was started otherwise, or they are no text."""
    typed = Path(sys.argv[0]).name == "run.py" and _is_text("".join(sys.argv))
    return sys.argv[1:] if typed else None


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_run_file(out: Path) -> dict[str, Any]:
    """The content of ``run.json``: "fingerprint", an object, and "runs", a list of objects.

    Raises:
        Damaged: it is something else.
        FileNotFoundError: there is none.
    """
    path = out / "run.json"
    try:
        content = orjson.loads(path.read_bytes())
        runs, fingerprint = content["runs"], content["fingerprint"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged", "move it away: the captions do not depend on it") from error
    if not isinstance(fingerprint, dict) or not isinstance(runs, list) or not all(isinstance(r, dict) for r in runs):
        raise Damaged(f"{path} is damaged", "move it away: the captions do not depend on it")
    return content


def _identity(run: dict[str, Any]) -> tuple:
    return tuple(run.get(name) for name in ("host", "pid", "begin", "folder"))


class RunFile:
    """One entry of ``run.json``, written when the run begins and again when it ends.

    Raises:
        Damaged: the file that is there is no JSON.
    """

    def __init__(self, out: Path, fingerprint: dict[str, Any], settings: dict[str, Any]):
        self._path = out / "run.json"
        self._content = {"format": 1, "fingerprint": fingerprint, "runs": []}
        if self._path.exists():
            self._content["runs"] = read_run_file(out)["runs"]
        self._entry = {
            "begin": now(),
            "end": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "folder": os.fspath(out.resolve()),
            "cwd": _here(),
            "argv": _typed(),
            "environment": {name: value for name, value in os.environ.items() if name.startswith("CAPTION_")},
            "settings": settings,
            "versions": versions(),
        }
        self._content["runs"].append(self._entry)

    @property
    def number(self) -> int:
        """Of this run, among those in this folder; the first is 1."""
        return len(self._content["runs"])

    def changed_versions(self) -> list[str]:
        """What differs from the versions of the run before, as "torch 2.11.0 -> 2.13.0"."""
        runs = self._content["runs"]
        if len(runs) < 2:
            return []
        before, present = runs[-2].get("versions", {}), self._entry["versions"]
        return [
            f"{name} {before[name]} -> {present[name]}"
            for name in present
            if name in before and before[name] != present[name]
        ]

    def before(self, name: str) -> Any:
        """What the latest earlier run of the folder noted under this name; None: nothing."""
        return next((run[name] for run in reversed(self._content["runs"][:-1]) if name in run), None)

    def add(self, runs: Sequence[dict[str, Any]]) -> None:
        """Entries of runs into other folders, whose rows this one takes over: before this one, each run once."""
        known = {_identity(run): run for run in self._content["runs"][:-1]} | {_identity(run): run for run in runs}
        self._content["runs"] = [*known.values(), self._entry]

    def note(self, **facts: Any) -> None:
        """Adds facts to this run's entry and writes the file."""
        self._entry.update(facts)
        durable.write(self._path, orjson.dumps(_valid(self._content), option=_INDENTED))

    def end(self, **facts: Any) -> None:
        self.note(end=now(), **facts)

    @contextlib.contextmanager
    def noting_errors(self) -> Iterator[None]:
        """An error that ends the run inside is noted as its end, if the disk still takes it."""
        try:
            yield
        except Exception as error:
            with contextlib.suppress(OSError, checkpoint.Error):
                self.end(exit_code=getattr(error, "exit_code", 1), error=str(error) or type(error).__name__)
            raise
