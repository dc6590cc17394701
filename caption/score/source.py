"""ScoreSource: the captions of an output folder as items to score."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from caption.engine import JUDGE, REFERENCE
from caption.engine.reference import told
from caption.errors import MissingField, UsageError, Vanished
from caption.item import Item
from caption.outputs.archived import Archived
from caption.outputs.rows import CAPTIONS
from caption.prompts import MissingFieldError, filled
from caption.report.folder import Folder
from caption.score.references import References
from caption.score.rows import caption_crc32
from caption.scorer import Scorer
from caption.sources import STDIN


class ScoreSource:
    """The committed rows of ``captions.jsonl``, in its order, with those that come while it is read.

    Args:
        out: output folder of a job, finished or still growing.
        image_root: where the pictures lie; None: where the run found them.

    Raises:
        UsageError: it has no captions yet, or its pictures lie elsewhere now.
        OutputError, Damaged: it is no output folder, or can't be read.
    """

    takes = "there is nothing to score"
    ignored = left_out = elsewhere = 0
    ignored_first = left_out_first = ()

    def __init__(self, out: Path, scorer: Scorer, references: References | None, image_root: str | None):
        self._out, self._scorer = out, scorer
        self.warnings: list[str] = []
        folder = Folder(out)
        self._count = folder.counts[CAPTIONS]
        if not self._count:
            raise UsageError(f"{out} has no captions yet", "score it when some are committed")
        self.described = f"captions of {out}"
        self._references = references
        self._root = Path(image_root) if image_root else _root_of(folder)
        if scorer.kind != REFERENCE and not self._root.exists():
            raise UsageError(f"the pictures of {out} are not at {self._root}", "say with --image-root where they lie")
        self._prompt = {JUDGE: self._rubric, REFERENCE: self._agreement}.get(scorer.kind, self._caption)

    def size(self, limit: int | None = None) -> int:
        return min(self._count, self._count if limit is None else limit)

    def items(self, limit: int | None = None) -> Iterator[Item]:
        places = Archived(self._out, self._root)
        rows = itertools.islice(self._rows(), limit)
        return (self._item(index, row, places.place) for index, row in enumerate(rows))

    def _rows(self) -> Iterator[dict[str, Any]]:
        read = 0
        while (folder := Folder(self._out)).counts[CAPTIONS] > read:
            for located in itertools.islice(folder.captions(), read, None):
                read += 1
                yield located.row

    def _item(self, index: int, row: dict[str, Any], place: Callable[[dict], Any]) -> Item:
        extra = {"caption_crc32": caption_crc32(row["caption"])}
        item = Item(index, row["id"], row["image"], "", 0, extra=extra)
        try:
            prompt = self._prompt(row)
        except MissingFieldError as error:
            return item._replace(fault=(MissingField.__name__, f"it has no {error}, which the rubric asks for"))
        if prompt is None:
            return item._replace(fault=(MissingField.__name__, self._references.missing))
        item = item._replace(prompt=prompt)
        if self._scorer.kind == REFERENCE:
            return item
        try:
            return item._replace(where=place(row))
        except OSError:
            return item._replace(fault=(Vanished.__name__, f"there is no such picture below {self._root}"))

    def _caption(self, row: dict) -> str:
        return row["caption"]

    def _rubric(self, row: dict) -> str:
        """Raises MissingFieldError: the row lacks a field that the rubric names."""
        known = {name: value for name, value in (row.get("extra") or {}).items() if value is not None}
        return filled(self._scorer.rubric, {**known, "id": row["id"], "image": row["image"], "caption": row["caption"]})

    def _agreement(self, row: dict) -> str | None:
        references = self._references.of(row)
        return told(row["caption"], references) if references else None


def _root_of(folder: Folder) -> Path:
    if folder.fingerprint.get("input") == STDIN and not folder.fingerprint.get("image_root"):
        return Path(folder.runs[-1].get("cwd") or ".") if folder.runs else Path()
    root = folder.picture_root
    if root is None:
        raise UsageError(f"{folder.out / 'run.json'} does not say where the pictures lie", "give --image-root")
    return root
