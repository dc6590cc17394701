"""What engines have in common that hold nothing from one step to the next."""

from collections.abc import Iterable

from caption.engine import Adapter, EngineOptions, Request


class HoldingEngine:
    """Takes requests in, and answers all of them in the next step, which subclasses write.

    usual_slots: where nobody said how many.
    """

    check_seconds = late_seconds = 0.0
    usual_slots: int

    def __init__(self, options: EngineOptions):
        self.options = options
        self.held: list[Request] = []

    @property
    def slots(self) -> int:
        return self.options.batch_size or self.usual_slots

    @property
    def free(self) -> int:
        return self.slots - len(self.held)

    @property
    def busy(self) -> int:
        return len(self.held)

    def warm_up(self) -> None:
        """Nothing here is done only once."""

    def admit(self, requests: Iterable[Request]) -> None:
        requests = list(requests)
        if len(requests) > self.free:
            raise ValueError(f"{len(requests)} requests for {self.free} free places")
        self.held += requests

    def adapt(self, adapter: Adapter | None) -> None:
        """Nothing is written that an adapter could change."""

    def take(self) -> list[Request]:
        """All that is held, which is then no longer."""
        held, self.held = self.held, []
        return held

    def reset(self) -> None:
        self.held = []
