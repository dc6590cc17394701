"""`checkpoint.json`: the one small file whose replacement is the commit."""

import zlib
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from . import durable
from .errors import Damaged, Mismatch

FORMAT = 1
SEAL = b',\n  "crc32": '  # the last field: the checksum of all bytes before it


@dataclass(frozen=True)
class Extent:
    """The committed part of a file: `bytes` from its start, in `rows` rows, of checksum `crc32`."""

    rows: int = 0
    bytes: int = 0
    crc32: int = 0

    def plus(self, rows: int, data: bytes) -> "Extent":
        return Extent(self.rows + rows, self.bytes + len(data), zlib.crc32(data, self.crc32))


@dataclass(frozen=True)
class Intent:
    """A replacement of whole files, decided and not yet done: the new ones lie synced in the folder as `NAME.new`."""

    files: dict[str, Extent]
    index: Extent


@dataclass(frozen=True)
class State:
    """What is committed. `files`: in the order of their numbers; `fingerprint`: None takes the next one given."""

    fingerprint: dict[str, Any] | None
    files: dict[str, Extent]
    index: Extent = Extent()
    commit: int = 0
    intent: Intent | None = None
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def save(path: Path, state: State) -> None:
    """Raises `Full`, OSError; see `durable.write`."""
    durable.write(path, encode(state))


def load(path: Path) -> State | None:
    """None if there is no such file. Raises `Damaged`, `Mismatch` for a format that this version does not know."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return decode(data, path)


def encode(state: State) -> bytes:
    text = orjson.dumps({"format": FORMAT, **asdict(state)}, option=orjson.OPT_INDENT_2)
    body = text.removesuffix(b"\n}")
    return body + SEAL + b"%d\n}\n" % zlib.crc32(body)


def decode(data: bytes, path: Path) -> State:
    body, seal, end = data.rpartition(SEAL)
    if not seal or end != b"%d\n}\n" % zlib.crc32(body):
        raise Damaged(path, 0, "its content does not have the checksum at its end")
    fields = orjson.loads(data)
    version = fields.pop("format")
    if version != FORMAT:
        raise Mismatch("format version", version, FORMAT)
    del fields["crc32"]
    intent = fields.pop("intent")
    return State(
        **fields | {"files": _extents(fields["files"]), "index": Extent(**fields["index"])},
        intent=Intent(_extents(intent["files"]), Extent(**intent["index"])) if intent else None,
    )


def compare(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises `Mismatch` for the first differing field; a missing one counts as None that differs from any value."""
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in old or name not in new or old[name] != new[name]:
            raise Mismatch(name, old.get(name), new.get(name))


def _extents(fields: dict[str, dict[str, int]]) -> dict[str, Extent]:
    return {name: Extent(**extent) for name, extent in fields.items()}
