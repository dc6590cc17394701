"""Stale: scores whose caption is another one now, because it was done again."""

from __future__ import annotations

from pathlib import Path

from caption.report.folder import Folder
from caption.score.keys import Keys, whole_rows
from caption.score.rows import SCORES, caption_crc32
from checkpoint import Record


def withdraw_stale(record: Record, out: Path) -> int:
    """Takes out the scores of captions that are no longer there, or read differently; how many there were.

    Raises:
        checkpoint.Error, OSError: the row file can't be written anew; then nothing has changed.
    """
    if not record.counts[SCORES]:
        return 0
    captions = Keys((one.row["id"], caption_crc32(one.row["caption"])) for one in Folder(out).captions())
    stale = [row["id"] for row in whole_rows(out / SCORES) if captions.get(row["id"]) != row.get("caption_crc32")]
    return record.withdraw(SCORES, stale) if stale else 0
