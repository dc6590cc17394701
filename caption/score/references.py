"""References: the captions that others have written, from a field of the rows or from a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from caption.errors import UsageError
from caption.sources.columns import ID_COLUMNS, IMAGE_COLUMNS
from caption.sources.folder import as_id
from caption.sources.manifest import READERS

_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_TEXTS = ("caption", "captions", "text", "reference", "references")


class References:
    """Args:
        named: a file (JSONL, CSV, TSV; its rows have an id or an image, and a caption), or a field of the rows' extra.

    Attributes:
        identity: changes with the file's content.

    Raises:
        UsageError: the file can't be read, or has no rows of that kind.
    """

    def __init__(self, named: str):
        self._field, self._texts = named, None
        path = Path(named)
        kind = _KINDS.get(path.suffix.lower())
        if not (kind and path.is_file()):
            if kind:
                raise UsageError(f"--reference: there is no file {named}", "check the path, or name a field")
            self.identity = f"field {named}"
            return
        try:
            with path.open("rb") as file:
                self.identity = f"content {hashlib.file_digest(file, 'sha256').hexdigest()[:32]}"
        except OSError as error:
            raise UsageError(f"--reference: can't read {named}: {error.strerror}", "check its permissions") from error
        self._texts = {}
        for _, row, _ in READERS[kind](named):
            if isinstance(row, dict):
                self._take(row)
        if not self._texts:
            raise UsageError(
                f"--reference: {named} has no row with a picture and its caption",
                f"name them {ID_COLUMNS[0]} or {IMAGE_COLUMNS[0]}, and {_TEXTS[0]}",
            )

    def _take(self, row: dict) -> None:
        texts = next((_as_texts(row[name]) for name in _TEXTS if name in row), [])
        for name in (*ID_COLUMNS, *IMAGE_COLUMNS):
            if texts and isinstance(row.get(name), str | int):
                for key in {str(row[name]), as_id(str(row[name]))}:  # as the input has it, or captions.jsonl
                    self._texts.setdefault(key, []).extend(texts)

    def of(self, row: dict) -> list[str]:
        """Those of a row of captions.jsonl; none if there are none."""
        if self._texts is None:
            return _as_texts((row.get("extra") or {}).get(self._field))
        return self._texts.get(row["id"]) or self._texts.get(row.get("image", "")) or []

    @property
    def missing(self) -> str:
        """What is said of a row that has none."""
        where = "its row has no field" if self._texts is None else "there is no reference caption for it in"
        return f"{where} {self._field}"


def _as_texts(value: Any) -> list[str]:
    """Valid ones: a table in another encoding than UTF-8 is read as far as it goes."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [one.encode(errors="replace").decode() for one in texts if isinstance(one, str) and one.strip()]
