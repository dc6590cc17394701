"""The fast engine: a fixed number of slots, and a new picture in each as soon as its text has ended."""

import contextlib
from collections.abc import Iterable, Iterator

import torch

from caption.engine import Answer, EngineOptions, Request
from caption.engine.base import Loaded, ModelEngine
from caption.engine.decoder import Decoder
from caption.engine.errors import DoesNotLoad
from caption.engine.prefill import Prefill, Prefilled
from caption.engine.sampling import signed

STEPS = 8  # tokens a row between two answers at most
GPU_STEPS = 4  # between two looks at what has ended: enough to do while the host goes on
PREFILL_TOKENS = 16384  # of one group, padding included: what it takes of memory beside the cache
REFILL = 4  # slots are refilled when one in so many is free: a larger group is prefilled faster,
GROUP = 16  # but one of so many no more


class SlotEngine(ModelEngine):
    """Decodes all slots together, each text at its own step, and prefills groups into the slots that fall free.

    graphs: whether a step is captured as a CUDA graph. Raises Unsupported where the model can't go this way.
    """

    name = "slots"

    def __init__(self, options: EngineOptions, loaded: Loaded | None = None, graphs: bool | None = None):
        super().__init__(options, loaded)
        self.graphs = options.device == "cuda" if graphs is None else graphs
        # Prompts are prepared beside the steps, with waits of the host for the device that must not be for all of it.
        self.beside = torch.cuda.Stream() if options.device == "cuda" else None
        self.reset()

    def describe(self) -> dict:
        text = self.model.config.get_text_config(decoder=True)
        return {**super().describe(), "attention": text._attn_implementation, "graphs": self.graphs}

    def reset(self) -> None:
        self.waiting: list[Request] = []
        self.held: dict[int, Request] = {}  # by slot
        self.moved_in = None  # the event behind the latest group's last reading
        self.decoder = Decoder(self.options.batch_size, torch.device(self.options.device), self.graphs)

    @property
    def free(self) -> int:
        """0 as well while fewer slots are free than make a group."""
        slots = self.options.batch_size
        free = slots - self.busy
        return free if free >= min(slots / REFILL, GROUP) else 0

    @property
    def busy(self) -> int:
        return len(self.waiting) + len(self.held)

    def admit(self, requests: Iterable[Request]) -> None:
        self.waiting += self._checked(requests)

    @torch.inference_mode()
    def step(self) -> list[Answer]:
        """Make tokens until a text ends, at most STEPS in each slot."""
        if self.beside:
            self.decoder.run(GPU_STEPS)  # to do for the GPU while the host prepares what follows
        while self.waiting:
            self._prefill(self._next_group())
        moved = self.decoder.compact() if self.held else {}
        self.held = {moved.get(slot, slot): request for slot, request in self.held.items()}
        for _ in range(0 if self.beside else STEPS):
            if ended := self.decoder.ended():
                return self._answers(ended)
            self.decoder.run(1)
        return self._answers(self.decoder.ended())

    def _next_group(self) -> list[Request]:
        """The first of those that can be prefilled together, short prompts first."""
        group = next(iter(self.grouped(self.waiting)))
        group.sort(key=lambda request: request.inputs["input_ids"].shape[1])
        longest = [request.inputs["input_ids"].shape[1] for request in group]
        fits = [count for count, length in enumerate(longest, 1) if count * length <= PREFILL_TOKENS]
        return group[: fits[-1] if fits else 1]

    def _prefill(self, requests: list[Request]) -> None:
        group = self.prefilled(requests)
        slots = [slot for slot in range(self.options.batch_size) if slot not in self.held][: len(requests)]
        seeds, limits = [signed(one.seed) for one in requests], [self._limit(one) for one in requests]
        self.move_in(group, slots, seeds, limits)
        self.held.update(zip(slots, requests))
        taken = set(map(id, requests))
        self.waiting = [request for request in self.waiting if id(request) not in taken]

    def prefilled(self, requests: list[Request]) -> Prefilled:
        """Run the prompts of a group through the model."""
        prefill = Prefill(self.options)
        with self._beside():
            self.generate(requests, prefill)
        if prefill.done is None:
            raise DoesNotLoad(f"{type(self.model).__name__} generates in a way of its own, which can't be followed")
        return prefill.done

    def move_in(self, group: Prefilled, slots: list[int], seeds: list[int], limits: list[int]) -> None:
        """Let the texts of a group go on in these slots."""
        self.decoder.admit(group, slots, seeds, limits)
        if self.beside:
            self.moved_in = torch.cuda.current_stream().record_event()

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        """On a stream of its own. What it leaves is read in the main one by `move_in` alone, so that its memory is free
        for the next group behind that."""
        if not self.beside:
            yield
            return
        if self.moved_in:
            self.beside.wait_event(self.moved_in)
        with torch.cuda.stream(self.beside):
            yield
        torch.cuda.current_stream().wait_stream(self.beside)

    def _answers(self, slots: list[int]) -> list[Answer]:
        ends = set(self.decoder.ends or ())
        taken = zip(slots, self.decoder.take(slots))
        return [self._answer(self.held.pop(slot), ids, ends, flaw) for slot, (ids, flaw) in taken]
