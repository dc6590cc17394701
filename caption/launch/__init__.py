"""Launch: where the workers of a run are started, here or on a cluster. A launcher starts them and carries their
messages, no more: what these mean is the crew's and the dispatcher's business."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Protocol

from caption.devices import Seat, choose_seats
from caption.errors import UsageError
from caption.gpus import is_lost
from caption.process import Child
from caption.settings import Settings


class Launcher(Protocol):
    """Attributes:
    seats: those to begin with, one a worker.
    described: a line for the user of where they are; "" for this machine.
    patience: seconds in which seats may still come when all are gone; 0: none will.
    """

    seats: Sequence[Seat]
    described: str
    patience: float

    def start(self, seat: Seat, environment: dict[str, str | None], descriptors: Sequence[int]) -> Child:
        """A worker's process, and the channel to it. It may begin later, and it may fail: then its channel ends."""

    def lost(self, seat: Seat) -> str:
        """Why the seat can have no worker any more; "" if it can."""

    def joined(self) -> list[Seat]:
        """Seats that have come since the last call. It never waits."""

    def close(self) -> None: ...


class Local:
    """Workers as child processes on this machine."""

    described, patience = "", 0.0

    def __init__(self, seats: Sequence[Seat]):
        self.seats = seats

    def start(self, seat: Seat, environment: dict[str, str | None], descriptors: Sequence[int]) -> Child:
        return Child("caption.worker", {**environment, "CUDA_VISIBLE_DEVICES": seat.visible}, descriptors)

    def lost(self, seat: Seat) -> str:
        gone = seat.device == "cuda" and is_lost(seat.visible)
        return "the GPU is lost, its driver shows it no more" if gone else ""

    def joined(self) -> list[Seat]:
        return []

    def close(self) -> None:
        pass


def open_launcher(settings: Settings) -> contextlib.closing:
    """The launcher that the settings ask for, to be closed by its context.

    Raises:
        UsageError: a GPU, a package or an address was asked for that is not there.
        NoWorkerLeft: nothing is free to work on, or the GPUs' driver does not answer.
    """
    if settings.launcher == "local":
        if settings.ray_address:
            raise UsageError("--ray-address is of --launcher ray", "add it, or leave the address out")
        return contextlib.closing(Local(choose_seats(settings)))
    from caption.launch.cluster import Cluster

    return contextlib.closing(Cluster(settings))
