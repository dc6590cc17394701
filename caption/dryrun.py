"""DryRun: who would do what, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import checkpoint
from caption.devices import Seat
from caption.errors import InputError
from caption.feed import Feed
from caption.schedule import make_schedule
from caption.settings import Settings
from caption.sources import Source


def dry_run(settings: Settings, source: Source, seats: Sequence[Seat]) -> None:
    """Prints how many images each seat would get, which first, and what is done already; writes nothing.

    Raises:
        InputError: the input holds no pictures.
    """
    feed = Feed(source, settings.limit, _done_in(Path(settings.output)))
    schedule = make_schedule(settings.schedule, [seat.name for seat in seats], settings.batch_size)
    while feed.fill(schedule):
        pass
    if not feed.read:
        raise InputError(f"there are no pictures in the {source.described}", "check the path")
    rest = "" if feed.ended else " so far, and more to come"
    print(f"Input   {source.described}: {feed.read:,} images{rest}, {feed.skipped:,} of them done before")
    for name, size in schedule.sizes().items():
        first = ", ".join(f"{item.index} {item.id}" for item in schedule.first(name, 3))
        print(f"{name:<7} {size:,} images" + (f", first {first}" if first else ""))
    print("Dry run: nothing was done.")


def _done_in(out: Path):
    try:
        return checkpoint.read(out).done
    except FileNotFoundError:
        return lambda ids: [False] * len(ids)
