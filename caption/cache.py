"""Cache: what a run found out and a later one need not, in the user's cache folder."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def recall(name: str) -> dict[str, Any] | None:
    """What was kept under a name ("checked/3f5c"); None: nothing, or nothing that can be read."""
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(_file(name).read_text(encoding="utf-8"))
        return kept if isinstance(kept, dict) else None
    return None


def keep(name: str, what: dict[str, Any]) -> None:
    """Writes it down. Where that can't be done, a later run finds it out again."""
    with contextlib.suppress(OSError):
        file = _file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, written = tempfile.mkstemp(dir=file.parent)
        with open(descriptor, "w", encoding="utf-8") as stream:
            json.dump(what, stream)
        os.replace(written, file)


def _file(name: str) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "caption" / f"{name}.json"
