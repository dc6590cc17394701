"""Flat: a row whose values are texts and numbers of the same types in every row, for readers that infer types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

COLUMNS = (
    "id", "image", "caption", "finish_reason", "tokens", "width", "height", "seed", "seconds", "attempts", "flags",
    "prompt", "prompt_name", "raw", "retries", "lora", "lora_scale", "twin_of", "extra",
)  # fmt: skip


def flat_row(row: dict[str, Any], added: Sequence[str] = ()) -> dict[str, str | int | float]:
    """All of ``COLUMNS``, then those ``added``: | between flags, retries and extra as JSON, "" for what it lacks."""
    return {column: _flat(row.get(column, "")) for column in (*COLUMNS, *added)}


def _flat(value: Any) -> str | int | float:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "|".join(value)
    return orjson.dumps(value).decode() if isinstance(value, list | dict) else value
