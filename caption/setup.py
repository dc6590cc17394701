"""Setup: what the workers of a run or a pool are told first, from its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from caption.adapter import Adapters
from caption.devices import Seat
from caption.engine import EngineOptions
from caption.guard import GuardOptions
from caption.image import DecodeOptions
from caption.messages import Setup
from caption.model import Model
from caption.precision import Precision
from caption.scorer import Scorer
from caption.settings import OPTIONS, Settings


def chosen_dtype(settings: Settings, seats: Sequence[Seat]) -> str:
    """The precision that "auto" stands for on these seats."""
    if settings.dtype != "auto":
        return settings.dtype
    return "fp32" if seats[0].device == "cpu" else "fp16"


def make_setup(
    settings: Settings,
    seats: Sequence[Seat],
    model: Model,
    precision: Precision,
    adapters: Adapters,
    shared: int | None = None,
    scorer: Scorer | None = None,
) -> Callable[[Seat], Setup]:
    """Gives what makes the first message for a seat's worker, in the numbers of that moment.

    shared: descriptor of the memory that a Python caller's pictures lie in.
    scorer: what scores captions, where none are made.
    """
    names = {field.name for field in dataclasses.fields(EngineOptions)} & OPTIONS.keys()
    options = EngineOptions(
        **{name: getattr(settings, name) for name in names}
        | {"model": model.folder, "model_identity": model.identity, "dtype": precision.dtype}
        | {
            "scorer": scorer.kind if scorer else "",
            "adapter": adapters.run,
            "device": seats[0].device,
        }
    )
    decode = DecodeOptions(settings.max_pixels, settings.max_pixels_decoded)
    guard = GuardOptions(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(GuardOptions)})

    def setup(seat: Seat) -> Setup:
        of_seat = {name: getattr(seat, name) for name in ("gpus", "memory_share", "threads")}
        numbers = dataclasses.replace(options, dtype=precision.dtype, **of_seat)
        timeout = settings.decode_timeout
        highest = scorer.highest if scorer else None
        told = numbers, seat.loaders, decode, timeout, guard, precision.flags, highest, shared, adapters, seat.host
        return Setup(seat.name, *told)

    return setup
