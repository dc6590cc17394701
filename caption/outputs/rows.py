"""Rows: the lines of ``captions.jsonl`` and ``failed.jsonl``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import orjson

from caption.item import Item
from caption.messages import Result
from checkpoint import FOLDER

CAPTIONS = "captions.jsonl"
FAILED = "failed.jsonl"


def caption_row(item: Item, result: Result) -> bytes:
    """One line of ``captions.jsonl``, without its newline."""
    row = {
        "id": item.id,
        "image": item.image,
        "caption": result.caption,
        "finish_reason": result.finish_reason,
        "tokens": result.tokens,
        "width": result.width,
        "height": result.height,
        "seed": item.seed,
        "seconds": result.seconds,
        "attempts": item.attempts + 1,
        "flags": result.flags,
    }
    if item.retries:
        row["retries"] = [{"reason": change.reason, "changed": change.changed} for change in item.retries]
    if item.prompt is not None:
        row["prompt"] = item.prompt
    if item.prompt_name is not None:
        row["prompt_name"] = item.prompt_name
    if item.lora is not None:
        row["lora"] = item.lora
    if item.lora_scale is not None:
        row["lora_scale"] = item.lora_scale
    if result.raw is not None:
        row["raw"] = result.raw
    if item.extra:
        row["extra"] = item.extra
    return orjson.dumps(row)


class RowFiles(NamedTuple):
    """Where the rows of a run go.

    Attributes:
        done, failed: names of the row files.
        folder: of their record.
        row: makes one line of ``done``, without its newline.
        failed_row: ... of ``failed``; of an item, the name of an ItemError and its message.
    """

    done: str
    failed: str
    folder: str
    row: Callable[[Item, Result], bytes]
    failed_row: Callable[[Item, str, str], bytes]


def failed_row(item: Item, error: str, message: str) -> bytes:
    """One line of ``failed.jsonl``, without its newline; ``error`` is the name of an ItemError."""
    row = {
        "id": item.id,
        "image": item.image,
        "error": error,
        "message": message.encode(errors="replace").decode(),
        "attempts": item.attempts + 1,
    }
    return orjson.dumps(row)


CAPTION_FILES = RowFiles(CAPTIONS, FAILED, FOLDER, caption_row, failed_row)
