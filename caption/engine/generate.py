"""The plain engine: transformers' own generate, a batch at a time, for any model that has it."""

from collections.abc import Iterable

from caption.engine import Answer, EngineOptions, Request
from caption.engine.base import AUTO_SLOTS, Loaded, ModelEngine
from caption.engine.errors import DoesNotLoad
from caption.engine.loop import Loop
from caption.engine.memory import Cards

MOST = 128  # side by side, where memory decides: all wait for the longest text


class GenerateEngine(ModelEngine):
    """Collects requests up to the batch size; each step captions all of them. Raises what load_model raises.

    Where memory decides, the batch becomes twice as large as long as a full one has left room for that.
    """

    name = "generate"

    def __init__(
        self, options: EngineOptions, loaded: Loaded | None = None, fallback: str | None = None, alone: bool = False
    ):
        super().__init__(options, loaded, fallback, alone)
        self.held: list[Request] = []
        self.memory = Cards(self.model, options.memory_share) if self.asks_memory else None
        self._slots = options.batch_size or AUTO_SLOTS

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def free(self) -> int:
        return self.slots - len(self.held)

    @property
    def busy(self) -> int:
        return len(self.held)

    def warm_up(self) -> None:
        """Nothing here is done only once."""

    def admit(self, requests: Iterable[Request]) -> None:
        self.held += self._checked(requests)

    def step(self) -> list[Answer]:
        if self.memory:
            self.memory.watch()
        # A beam search with a later end can choose another beginning, so it can't be cut afterwards.
        beams = self.options.num_beams > 1
        groups = self.grouped(self.held, lambda request: self._limit(request) if beams else 0)
        answers = [answer for group in groups for answer in self._caption(group)]
        if self.memory and len(self.held) == self._slots and self.memory.bear_twice:
            self._slots = min(2 * self._slots, MOST)
        self.held = []
        return answers

    def reset(self) -> None:
        self.held = []

    def _caption(self, group: list[Request]) -> list[Answer]:
        loop = Loop(self.options, [request.seed for request in group], [request.penalty for request in group])
        self.generate(group, loop)
        if not loop.generated:
            raise DoesNotLoad(f"{type(self.model).__name__} generates in a way of its own, which can't be followed")
        rows = zip(group, loop.generated, loop.non_finite)
        return [self._answer(request, ids, loop.ends, first) for request, ids, first in rows]
