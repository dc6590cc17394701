"""DryRun: who would do what, without doing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caption.console import say
from caption.devices import Seat
from caption.errors import InputError
from caption.feed import Feed
from caption.outputfolder import compare_with_record, record_errors
from caption.schedule import FEW, make_schedule
from caption.settings import Settings
from caption.sources import Source


def dry_run(settings: Settings, fingerprint: dict[str, Any], source: Source, seats: Sequence[Seat]) -> None:
    """Prints how many images each seat would get, which first, and what is done already; writes nothing.

    Args:
        fingerprint: of the job, as far as it is known without its model.

    Raises:
        InputError: the input holds no pictures.
        OtherJob, Damaged, DiskError: the output folder can't be continued.
    """
    out = Path(settings.output)
    view = compare_with_record(out, fingerprint)
    feed = Feed(source, settings.limit, view.done if view else lambda ids: [False] * len(ids))
    schedule = make_schedule(settings.schedule, [seat.name for seat in seats], settings.batch_size or FEW)
    with record_errors(out):
        while feed.fill(schedule):
            pass
    if not feed.read:
        raise InputError(f"there are no pictures in the {source.described}", source.takes)
    rest = "" if feed.ended else " so far, and more to come"
    say(f"Input   {source.described}: {feed.read:,} images{rest}, {feed.skipped:,} of them done before")
    for name, size in schedule.sizes().items():
        first = ", ".join(f"{item.index} {item.id}" for item in schedule.first(name, 3))
        say(f"{name:<7} {size:,} images" + (f", first {first}" if first else ""))
    say("Dry run: nothing was done.")
