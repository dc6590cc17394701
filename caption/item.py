"""Item: one thing to do, an image under one prompt."""

from __future__ import annotations

from typing import NamedTuple

from caption.where import Where


class Change(NamedTuple):
    """Why an item is tried again, and what is different this time (``failed.jsonl`` and ``retries`` of the row)."""

    reason: str
    changed: str


class Item(NamedTuple):
    """One image under one prompt; travels from a source to a worker and back by its lease.

    Attributes:
        index: position among the items of the input, or of the run's shard of it, counted from 0.
        id: the key of the row; valid Unicode.
        image: what the row shows as the image.
        where: the path to open, which may hold undecodable bytes as surrogates; or another place of caption.where.
        seed: seed of the sampled caption.
        prompt: the item's own prompt, or None for the run's.
        max_pixels: the item's own pixel budget in a further try, or None for the run's.
        max_new_tokens: the item's own limit, or None for the run's.
        penalty: a factor on the run's repetition penalty, in a further try.
        attempts: how often it has been tried before.
        retries: one entry for each of those tries.
        extra: further fields that are carried to the row.
        lora: the item's own adapter, as its table names it, or None for the run's.
        lora_scale: its strength, or None for the run's; 0 is the bare model.
        prompt_name: name of the prompt, where several are in use.
        fault: class and message of the error, where the input itself gives nothing to caption.
        cost: an estimate of its work, in tokens, by which a schedule orders items; 0.0: nobody has looked.
    """

    index: int
    id: str
    image: str
    where: Where
    seed: int
    prompt: str | None = None
    max_pixels: int | None = None
    max_new_tokens: int | None = None
    attempts: int = 0
    retries: tuple[Change, ...] = ()
    extra: dict | None = None
    lora: str | None = None
    lora_scale: float | None = None
    prompt_name: str | None = None
    fault: tuple[str, str] | None = None
    cost: float = 0.0
    penalty: float = 1.0
