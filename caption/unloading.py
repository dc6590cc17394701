"""Unloading: what each GPU's memory holds while the captioner is loaded, and when its workers have ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

from caption.devices import Seat
from caption.figures import in_bytes
from caption.gpus import free_memory

_PATIENCE = 10.0  # seconds that a driver may take to give back what a process that has ended held
_EVERY = 0.2


class Unloading:
    """Args:
    seats: of the workers whose models are unloaded.
    """

    def __init__(self, seats: Sequence[Seat]):
        self._names: dict[str, str] = {}  # each GPU under the name of its first worker
        for seat in seats:
            uuids = seat.visible.split(",") if seat.device == "cuda" else []
            for number, uuid in enumerate(uuids):
                self._names.setdefault(uuid, seat.name if len(uuids) == 1 else f"{seat.name}/{number}")
        self._before: dict[str, int] = {}

    def note_before(self) -> None:
        """While the models are loaded."""
        self._before = self._used()

    def figures(self) -> dict[str, dict[str, int]]:
        """Bytes in use on each GPU, "before" and "after", when its driver has given back what the workers held."""
        deadline, after = time.monotonic() + _PATIENCE, self._used() if self._before else {}
        while self._before and time.monotonic() < deadline:
            time.sleep(_EVERY)
            earlier, after = after, self._used()
            if earlier == after:
                break
        both = [(uuid, name) for uuid, name in self._names.items() if uuid in self._before and uuid in after]
        return {name: {"before": self._before[uuid], "after": after[uuid]} for uuid, name in both}

    def _used(self) -> dict[str, int]:
        found = ((uuid, free_memory(uuid)) for uuid in self._names)
        return {uuid: memory[1] - memory[0] for uuid, memory in found if memory}


def unloading_lines(figures: dict[str, dict[str, int]]) -> list[str]:
    """A line a GPU, for people."""
    return [
        f"{name:<7} memory {in_bytes(one['before'])} -> {in_bytes(one['after'])}: the captioner is unloaded"
        for name, one in figures.items()
    ]
