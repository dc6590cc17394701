"""Retry: what is different when an item that failed by itself is tried again, and when it is given up."""

from __future__ import annotations

from caption import errors
from caption.item import Change, Item
from caption.settings import Settings

_SMALLER = {"OutOfMemory": 0, "EngineFailed": 1}  # from this failure on, each further try has half the pixels


def next_try(item: Item, error: str, settings: Settings, pixels: int = 0) -> Item | None:
    """The item for its next try, or None if it is given up.

    A picture that is broken stays broken, so only errors that may pass are tried again. An engine's error is met
    first by the same call, then by fewer pixels each time, because the same call gives the same error.

    Args:
        error: name of a class below ItemError.
        pixels: of the picture, or 0 where it isn't known.
    """
    if not getattr(errors, error).transient or item.attempts >= settings.max_retries:
        return None
    changed, max_pixels = "nothing", item.max_pixels
    if item.attempts >= _SMALLER.get(error, settings.max_retries):
        before = min(item.max_pixels or settings.max_pixels, pixels or settings.max_pixels)
        max_pixels = max(1, before // 2)
        changed = f"max_pixels {before} -> {max_pixels}"
    return item._replace(
        attempts=item.attempts + 1, max_pixels=max_pixels, retries=(*item.retries, Change(error, changed))
    )
