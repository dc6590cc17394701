"""Rows: the lines of ``scores.jsonl``; those of ``failed_scores.jsonl`` are as in ``failed.jsonl``."""

from __future__ import annotations

import zlib

import orjson

from caption.item import Item
from caption.messages import Result
from caption.outputs.rows import RowFiles

SCORES = "scores.jsonl"
FAILED_SCORES = "failed_scores.jsonl"
FOLDER = "scores"  # in OUT: record, run.json, stats.jsonl and log of the second stage


def score_files(scorer: str) -> RowFiles:
    """Where scores go. scorer: its name, which each row has."""

    def row(item: Item, result: Result) -> bytes:
        row = {"id": item.id, "score": result.score, "parts": result.parts, "scorer": scorer}
        return orjson.dumps(row | (item.extra or {}))

    return RowFiles(SCORES, FAILED_SCORES, FOLDER, row)


def caption_crc32(caption: str) -> int:
    """Of the caption that was scored: by it a score is known to be of another one."""
    return zlib.crc32(caption.encode(errors="replace"))
