"""Retry: what is different when an item that failed or was flagged is tried again, and when it is given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caption import errors
from caption.guard import FLAGS
from caption.item import Change, Item
from caption.settings import Settings

# From this failure on, each further try has half the pixels.
_SMALLER = {"OutOfMemory": 0, "NoScore": 0, "EngineFailed": 1}
_SEED_STEP = 2**40  # beyond the seeds of all other images
_PENALTY_STEP = 1.1  # 1.1, 1.21, 1.33: 1.2 ends most loops, and a text under a much larger one goes astray


def next_try(item: Item, error: str, settings: Settings, pixels: int = 0) -> Item | None:
    """The item for its next try, or None if it is given up.

    A picture that is broken stays broken, so only errors that may pass are tried again. An engine's error is met
    first by the same call, then by fewer pixels each time, because the same call gives the same error.

    Args:
        error: name of a class below ItemError.
        pixels: of the picture, or 0 where it isn't known.
    """
    failures = len(item.retries) - _flagged(item)
    if not getattr(errors, error).transient or failures >= settings.max_retries:
        return None
    if failures >= _SMALLER.get(error, settings.max_retries):
        return _fewer_pixels(item, error, settings, pixels, 1 / 2)
    return _again(item, error, "nothing")


def next_flagged_try(
    item: Item, flags: Sequence[str], actions: Mapping[str, str], settings: Settings, pixels: int
) -> Item | None:
    """The item for its next try because of a flag of its caption, or None if no flag asks for one, or for no more.

    Something that matters must be different: a cut caption may be twice as long, a sampled one gets another seed, a
    greedy one that loops a larger repetition penalty, another greedy one fewer pixels. What is different depends on
    earlier flags only, so a crash does not change it.

    Args:
        actions: what is done with each flag.
        pixels: of the picture, or 0 where it isn't known.
    """
    flag = next((flag for flag in flags if actions[flag] == "retry"), None) if flags else None
    if flag is None or _flagged(item) >= settings.max_retries:
        return None
    if flag == "cut-off":
        before = item.max_new_tokens or settings.max_new_tokens
        return _again(item, flag, f"max_new_tokens {before} -> {2 * before}", max_new_tokens=2 * before)
    if settings.temperature > 0:
        seed = item.seed + _SEED_STEP
        return _again(item, flag, f"seed {item.seed} -> {seed}", seed=seed)
    if flag == "loop":
        before, after = item.penalty, round(item.penalty * _PENALTY_STEP, 3)
        return _again(item, flag, f"repetition_penalty times {before:g} -> times {after:g}", penalty=after)
    return _fewer_pixels(item, flag, settings, pixels, 3 / 4)


def _flagged(item: Item) -> int:
    return sum(change.reason in FLAGS for change in item.retries)


def _fewer_pixels(item: Item, reason: str, settings: Settings, pixels: int, share: float) -> Item:
    before = min(item.max_pixels or settings.max_pixels, pixels or settings.max_pixels)
    after = max(1, int(before * share))
    return _again(item, reason, f"max_pixels {before} -> {after}", max_pixels=after)


def _again(item: Item, reason: str, changed: str, **different: float) -> Item:
    retries = (*item.retries, Change(reason, changed))
    return item._replace(attempts=item.attempts + 1, retries=retries, **different)
