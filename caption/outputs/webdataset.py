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
    """The key is the picture's path without its ending; dots in it, which would end it, are underscores."""

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
                key = _key(row.data["image"], self.options.item_name(row), keys)
                keys.add(key.lower())
                for name, data in (
                    (_SAME.get(format, format), content),
                    ("txt", row.data["caption"].encode()),
                    ("json", orjson.dumps(flat_row(row.data, self.options.added))),
                ):
                    member = tarfile.TarInfo(f"{key}.{name}")
                    member.size = len(data)
                    shard.addfile(member, io.BytesIO(data))


def _key(image: str, name: str, taken: set[str]) -> str:
    """One that no other row of the shard has: a twin of one stem gets its ending, and a number if need be."""
    path = PurePosixPath(image)
    named = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
    stem = str(named).lstrip("/") + (f"#{name}" if name else "")
    choices = [stem, f"{stem}-{path.suffix[1:]}", *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
    cleaned = (choice.replace(".", "_") for choice in choices)
    return next(choice for choice in cleaned if choice.lower() not in taken)
