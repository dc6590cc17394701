"""Rows: the lines of ``scores.jsonl``, and of ``failed_scores.jsonl``; both name the caption by its CRC-32."""

from __future__ import annotations

import zlib

import orjson

from caption.item import Item
from caption.messages import Result
from caption.outputs.rows import RowFiles, failed_row

SCORES = "scores.jsonl"
FAILED_SCORES = "failed_scores.jsonl"
FOLDER = "scores"  # in OUT: record, run.json, stats.jsonl and log of the second stage


def score_files(scorer: str) -> RowFiles:
    """Where scores go. scorer: its name, which each row of scores has."""

    def row(item: Item, result: Result) -> bytes:
        row = {"id": item.id, "score": result.score, "parts": result.parts, "scorer": scorer}
        return orjson.dumps(row | (item.extra or {}))

    def failed(item: Item, error: str, message: str) -> bytes:
        return orjson.dumps(orjson.loads(failed_row(item, error, message)) | (item.extra or {}))

    return RowFiles(SCORES, FAILED_SCORES, FOLDER, row, failed)


def caption_crc32(caption: str) -> int:
    """Of the caption that was scored: by it a score is known to be of another one."""
    return zlib.crc32(caption.encode(errors="replace"))
