"""The fast engine: a fixed number of slots, and a new picture in each as soon as its text has ended."""

import contextlib
import dataclasses
from collections.abc import Hashable, Iterable, Iterator

import torch

from caption.engine import Answer, EngineOptions, Refusal, Request, products
from caption.engine.agreement import LOGITS, apart
from caption.engine.base import AUTO_SLOTS, Loaded, ModelEngine
from caption.engine.collate import padding
from caption.engine.decoder import Decoder, Text
from caption.engine.dummy import dummy_requests
from caption.engine.errors import DoesNotLoad, classify
from caption.engine.memory import MOST_TOKENS, Cards
from caption.engine.prefill import Prefill, Prefilled
from caption.engine.sampling import signed
from caption.engine.standstill import Standstill

STEPS = 8  # tokens a row between two answers at most
GPU_STEPS = 4  # between two looks at what has ended: enough to do while the host goes on,
FEWER_STEPS = 2  # where another group could move in: slots stand empty for want of prompts, and a step computes those
FIRST_SLOTS, FIRST_TOKENS = 128, 4096  # where memory decides, until a group was measured
REFILL = 4  # slots are refilled when one in so many is free: a larger group is prefilled faster,
GROUP = 32  # but one of so many no more
WAITING = 2  # groups at most that wait in the engine


class SlotEngine(ModelEngine):
    """Decodes all slots together, each text at its own step, and prefills groups into the slots that fall free.

    graphs: whether a step is captured as a CUDA graph. alone: as ModelEngine's.

    Raises Unsupported where the model can't go this way.
    """

    name = "slots"

    def __init__(
        self, options: EngineOptions, loaded: Loaded | None = None, graphs: bool | None = None, alone: bool = False
    ):
        super().__init__(options, loaded, alone=alone)
        self.graphs = options.device == "cuda" if graphs is None else graphs
        # Prompts are prepared beside the steps, with waits of the host for the device that must not be for all of it.
        self.beside = torch.cuda.Stream() if options.device == "cuda" else None
        self.memory = Cards(self.model, options.memory_share) if self.asks_memory else None
        self.prefill_tokens = MOST_TOKENS  # of one group, padding included
        self.standstill = Standstill()
        self.reset()

    @torch.inference_mode()
    def warm_up(self) -> None:
        if not self.beside:
            return
        most = self.prefill_tokens
        try:
            self.admit(dummy_requests(self.options, self.processor, FIRST_TOKENS)[: self.free])
            with products.tried():
                expected = self.prefilled(self._next_group()).logits
            if products.any_chosen() and not self._makes(expected):
                products.forget()
            self._prefill(self._next_group())
            self.decoder.run(1)
            self._wait_for_device()
        except Exception as error:
            if classify(error) == "device":
                raise
            self.held.clear()  # whatever it is, the first pictures meet it too, and are told of
        if self.held:
            self.decoder.drop()
            self._forget()
        else:
            self.reset()
            self.prefill_tokens = most

    def _makes(self, expected: torch.Tensor) -> bool:
        """Whether the first group has these logits still, with the products that were chosen after them."""
        made = self.prefilled(self._next_group()).logits
        return apart(made, expected) <= LOGITS[self.options.dtype]

    def describe(self) -> dict:
        text = self.model.config.get_text_config(decoder=True)
        return {**super().describe(), "attention": text._attn_implementation, "graphs": self.graphs}

    def _forget(self) -> None:
        self.waiting: list[Request] = []
        self.held: dict[int, Request] = {}  # by slot
        self.apart: set[Hashable] = set()  # keys of a group that failed: one of them is to blame
        self.refused: list[Refusal] = []
        self.long = False  # what is held is a text that has to be alone
        self.standstill.forget()

    def reset(self) -> None:
        self._forget()
        self.longest = 1  # tokens of the longest prompt of the latest group; not known yet
        self.moved_in = None  # the event behind the latest group's last reading
        self._start(self.options.batch_size or (FIRST_SLOTS if self.memory else AUTO_SLOTS))

    def _start(self, slots: int) -> None:
        # Where memory decides, there is room for all of them: nothing moves then, and what was captured stays.
        self.decoder = Decoder(slots, torch.device(self.options.device), self.graphs, whole=self.memory is not None)
        if self.beside:
            torch.cuda.empty_cache()  # for the new cache to lie in one piece where the old one lay

    @property
    def late_seconds(self) -> float:
        return self.standstill.seconds

    @property
    def slots(self) -> int:
        return self.decoder.slots

    @property
    def _most_tokens(self) -> int:
        """Of one group, padding included."""
        return FIRST_TOKENS if self.memory and not self.memory.measured else self.prefill_tokens

    @property
    def fitting(self) -> int:
        """Prompts like the longest of the latest group in one group."""
        return max(1, self._most_tokens // self.longest)

    @property
    def free(self) -> int:
        """0 as well while fewer slots are free than make a group, or while enough wait: what waits here is begun, and
        no other worker can take it over when the run comes to its end."""
        free = min(self.slots - self.busy, WAITING * self.fitting - len(self.waiting))
        return max(free, 0) if free >= min(self.slots / REFILL, GROUP, self.fitting) else 0

    @property
    def busy(self) -> int:
        return len(self.waiting) + len(self.held)

    def admit(self, requests: Iterable[Request]) -> None:
        if not self.busy:
            self.standstill.forget()
        self.waiting += self._checked(requests)

    @torch.inference_mode()
    def step(self) -> list[Answer | Refusal]:
        """Make tokens until a text ends, at most STEPS in each slot."""
        if self.beside:
            self._step_beside()
        else:
            while self.waiting and self._prefill(self._next_group()):
                pass
        moved = self.decoder.compact() if self.held else {}
        self.held = {moved.get(slot, slot): request for slot, request in self.held.items()}
        refused, self.refused = self.refused, []
        for _ in range(0 if self.beside or refused else STEPS):
            if ended := self._ended():
                return self._answers(ended)
            self.decoder.run(1)
        return refused + self._answers(self._ended())

    def _step_beside(self) -> None:
        """One group, and some steps: first texts end early, and not all at once. The steps come last, to do for the GPU
        while the host looks after what has ended and prepares the next group."""
        group = self._next_group() if self.waiting else []
        self._prefill(group)
        another = min(len(self.waiting), self.slots - len(self.held)) >= max(1, len(group))
        self.standstill.begins()
        self.decoder.run(FEWER_STEPS if another else GPU_STEPS)
        self.standstill.ends()

    def _next_group(self) -> list[Request]:
        """The first of those that can be prefilled together, short prompts first; none while a text has to be alone."""
        waiting = [one for one in self.waiting if not self.is_long(one)] or self.waiting
        if self.held and (self.long or self.is_long(waiting[0])):
            return []
        if doubted := [one for one in waiting if one.key in self.apart]:
            return doubted[:1]
        group = next(iter(self.grouped(waiting)))
        group.sort(key=lambda request: request.prompt_tokens)
        longest = [request.prompt_tokens for request in group]
        fits = [count for count, length in enumerate(longest, 1) if count * length <= self._most_tokens]
        self.longest = longest[-1]
        return group[: min(fits[-1] if fits else 1, self.slots - len(self.held))]

    def _prefill(self, requests: list[Request]) -> bool:
        """Run a group's prompts and let its texts in. False where some of those that are held must end before."""
        if not requests or not self._has_room():
            return False
        try:
            group = self._measured(requests) if self.memory else self.prefilled(requests)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(requests) == 1 and not self.held:
                raise
            # What is held has its memory and goes on; the group comes again in smaller parts, or alone.
            self.prefill_tokens = max(1, sum(one.prompt_tokens for one in requests) // 2)
            return len(requests) > 1
        except Exception as error:
            if classify(error) != "item":
                raise
            if len(requests) > 1:
                self.apart.update(one.key for one in requests)
            else:
                self.refused.append(Refusal(requests[0].key, error))
                self.apart.discard(requests[0].key)
                self.waiting.remove(requests[0])
            return True
        self.apart.difference_update(one.key for one in requests)
        slots = [slot for slot in range(self.slots) if slot not in self.held][: len(requests)]
        if len(slots) < len(requests):  # measured just now: the group comes again, smaller
            return True
        texts = [Text(signed(one.seed), self._limit(one), one.penalty) for one in requests]
        self.move_in(group, slots, texts)
        self.long = self.is_long(requests[0])
        self.decoder.captures = not self.long
        # Without their inputs, whose memory the loaders wait for.
        self.held.update((slot, dataclasses.replace(one, inputs={})) for slot, one in zip(slots, requests))
        taken = set(map(id, requests))
        self.waiting = [request for request in self.waiting if id(request) not in taken]
        return True

    def _measured(self, requests: list[Request]) -> Prefilled:
        """As `prefilled`, and the first time, settle the number of slots by what it took."""
        first = not self.memory.measured
        self.memory.watch()
        group = self.prefilled(requests)
        self.memory.measure(group)
        if first:
            self._has_room()
        return group

    def _has_room(self) -> bool:
        """Whether the cache holds texts as long as those that wait, or can be made to.

        Where memory decides the number of slots, longer texts mean fewer of them; that waits until no text is held.
        """
        if not self.memory or not self.memory.measured:
            return True
        need = max(one.prompt_tokens + self._limit(one) for one in self.waiting)
        decoder = self.decoder
        if need <= decoder.capacity:
            return True
        slots, tokens = self.memory.plan(decoder.view(need), decoder.cache_bytes)
        if self.held and slots < decoder.slots:
            return False
        if not self.held:
            self._start(slots)
        self.prefill_tokens = min(self.prefill_tokens, tokens)
        return True

    def prefilled(self, requests: list[Request]) -> Prefilled:
        """Run the prompts of a group through the model."""
        prefill = Prefill(self.options, padding([request.inputs for request in requests]))
        with self._beside():
            self.generate(requests, prefill)
        if prefill.done is None:
            raise DoesNotLoad(f"{type(self.model).__name__} generates in a way of its own, which can't be followed")
        return prefill.done

    def move_in(self, group: Prefilled, slots: list[int], texts: list[Text]) -> None:
        """Let the texts of a group go on in these slots."""
        self.decoder.admit(group, slots, texts)
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
            self.standstill.begins()
            yield
        torch.cuda.current_stream().wait_stream(self.beside)

    def _ended(self) -> list[int]:
        """Slots whose texts have, the oldest first. Of a crowd no more than the next groups take the place of: the
        device would have nothing to do while all are read."""
        return self.decoder.ended()[: max(GROUP, WAITING * self.fitting)]

    def _answers(self, slots: list[int]) -> list[Answer]:
        ends = set(self.decoder.ends or ())
        taken = zip(slots, self.decoder.take(slots))
        return [self._answer(self.held.pop(slot), ids, ends, flaw) for slot, (ids, flaw) in taken]
