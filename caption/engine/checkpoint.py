"""A checkpoint folder as it lies on disk: what its files say before any of it is loaded."""

import json
from pathlib import Path

from caption.engine.errors import DoesNotLoad, NeedsRemoteCode, NotFound


def read_json(folder: str, name: str) -> dict:
    """Return a JSON file of the folder as a dict; {} where there is none. Raises DoesNotLoad where it is broken."""
    path = Path(folder, name)
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DoesNotLoad(f"{path} is not valid JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def read_config(folder: str) -> dict:
    """Return config.json. Raises NotFound, DoesNotLoad."""
    if not Path(folder).is_dir():
        raise NotFound(f"there is no model folder {folder}")
    if not Path(folder, "config.json").is_file():
        raise NotFound(f"{folder} is no model folder: it has no config.json")
    return read_json(folder, "config.json")


def refuse_remote_code(folder: str, what: str) -> NeedsRemoteCode:
    """The error for a checkpoint whose `what` is Python code of its own."""
    return NeedsRemoteCode(
        f"the {what} of {folder} is Python code that comes with it; read that code, then allow it with "
        "--trust-remote-code"
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, for a message of one sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
