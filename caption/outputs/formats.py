"""Formats: what captions can be exported to."""

from __future__ import annotations

from caption.outputs.lines import Csv, ImageFolder, Jsonl
from caption.outputs.parquet import Parquet
from caption.outputs.sidecars import Caption, Json, Txt
from caption.outputs.webdataset import WebDataset

FORMATS = {
    "jsonl": Jsonl,
    "csv": Csv,
    "parquet": Parquet,
    "txt": Txt,
    "caption": Caption,
    "json": Json,
    "imagefolder": ImageFolder,
    "webdataset": WebDataset,
}
BESIDE = ("txt", "caption", "json", "imagefolder")  # can stand by the pictures


def parse_formats(text: str) -> list[tuple[str, bool]]:
    """Names, and whether beside the pictures, from "csv,txt:beside".

    Raises:
        ValueError: a name is not known, or can't stand beside pictures.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, where = part.partition(":")
        if name not in FORMATS:
            raise ValueError(f"names no format, of {', '.join(FORMATS)}")
        if where and (where != "beside" or name not in BESIDE):
            raise ValueError(f"names no place: {', '.join(BESIDE)} can be followed by :beside")
        found.append((name, bool(where)))
    return found
