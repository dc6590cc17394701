"""WebDataset: tar shards with a picture, its caption (.txt) and its flat row (.json) under one key."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

import orjson

from caption.errors import ItemError
from caption.image import ENDINGS
from caption.outputs.archived import ending
from caption.outputs.committed import Row
from caption.outputs.flat import flat_row
from caption.outputs.parts import Parts

_SAME = {"jpeg": "jpg", "jfif": "jpg", "tiff": "tif"}  # readers know a field by its ending


class WebDataset(Parts):
    """The key is that of the shard which a picture is from, else its path without its ending.

    Dots in its last part, which would end it, are underscores.
    """

    pattern = "{:05}.tar"
    rows_a_part = 1000

    def write_file(self, path: Path, rows: list[Row]) -> None:
        keys: set[str] = set()
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as shard:
            for row in rows:
                try:
                    content = self.options.origin(row).pictures.read(row.data)
                    format = ending(row.data["image"], content).removeprefix(".")
                except (OSError, ItemError):
                    self.missing.add(row.data["image"])
                    continue
                key = _key(row.data, self.options.item_name(row), keys)
                keys.add(key.lower())
                for name, data in (
                    (_SAME.get(format, format), content),
                    ("txt", row.data["caption"].encode()),
                    ("json", orjson.dumps(flat_row(row.data, self.options.added))),
                ):
                    member = tarfile.TarInfo(f"{key}.{name}")
                    member.size = len(data)
                    shard.addfile(member, io.BytesIO(data))


def _key(row: dict, name: str, taken: set[str]) -> str:
    """One that no other row of the shard has: a twin of one stem gets its ending, and a number if need be."""
    image = PurePosixPath(row["image"])
    key = (row.get("extra") or {}).get("__key__")
    if not isinstance(key, str) or not key.strip("/."):
        key = str(image.with_suffix("") if image.suffix.lower() in ENDINGS else image)
    *folders, last = (part for part in PurePosixPath(key).parts if part not in ("/", ".."))
    stem = "/".join([*folders, (last + (f"#{name}" if name else "")).replace(".", "_")])
    rest = image.name.partition(".")[2].replace(".", "_")
    choices = [stem, f"{stem}-{rest}", *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
    return next(choice for choice in choices if choice.lower() not in taken)
