"""RunFile: ``run.json``, the job's fingerprint and one entry a run."""

from __future__ import annotations

import datetime
import os
import platform
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from caption import __version__
from caption.errors import Damaged
from checkpoint import durable

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
            "settings": settings,
            "versions": versions(),
        }
        self._content["runs"].append(self._entry)

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

    def note(self, **facts: Any) -> None:
        """Adds facts to this run's entry and writes the file."""
        self._entry.update(facts)
        durable.write(self._path, orjson.dumps(self._content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    def end(self, **facts: Any) -> None:
        self.note(end=now(), **facts)
