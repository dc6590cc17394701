"""How many texts a GPU's free memory bears, by measurement: what a group of prompts took, and what a token takes."""

from collections.abc import Mapping

import torch

from caption.engine.prefill import Prefilled
from caption.engine.slotcache import parts, states_of

SPARE = 0.03  # of the card, which is left free: for fragments, and for what the driver takes later
MOST_SLOTS = 512  # more make a step longer by as much as they add to it
MOST_TOKENS = 24576  # of a group of prompts
PROMPTS = 1 / 3  # of what is free, at most, for the prompts of a group
LOGITS = 16  # bytes a row and word of the vocabulary: fp16, fp32, and what samplers make of them


class Memory:
    """What the engine may take of a card.

    share: the part of the card that is this process's, the model included.

    After `watch`, a group of prompts is prefilled, then `measure` says what it took; from then on `plan` can tell.
    """

    def __init__(self, device: torch.device, share: float = 1.0):
        self.device, self.share = device, share
        self.token_bytes = 0.0  # that a token of a prompt takes while its group is prefilled, at most so far
        self.place_bytes = 0.0  # keys and values of a token
        self.row_bytes = 0  # of a slot, however long

    def watch(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)
        self.before = torch.cuda.memory_allocated(self.device)

    @property
    def taken(self) -> int:
        """The most bytes at a moment since `watch`, less what was taken before."""
        return torch.cuda.max_memory_allocated(self.device) - self.before

    def room(self, held: int = 0) -> float:
        """Bytes that are free for this process. held: of those that it has taken, what counts as free."""
        free, total = torch.cuda.mem_get_info(self.device)
        allocated = torch.cuda.memory_allocated(self.device)
        unused = torch.cuda.memory_reserved(self.device) - allocated
        own = self.share * (1 - SPARE) * total - allocated
        return max(min(free + unused - SPARE * total, own) + held, 0)

    def measure(self, group: Prefilled) -> None:
        found, rows = parts(group.cache), len(group.logits)
        places = rows * found.own[0].keys.shape[2]
        here = [layer.keys.nbytes + layer.values.nbytes for layer in found.own if layer.keys.device == self.device]
        states = [state for layer in found.states for state in states_of(layer).values() if state.device == self.device]
        self.token_bytes = max(self.token_bytes, self.taken / group.ids.numel(), 1.0)
        self.place_bytes = sum(here) / places
        self.row_bytes = group.logits.shape[1] * LOGITS + sum(state.nbytes for state in states) // rows

    def plan(self, capacity: int, held: int) -> tuple[int, int]:
        """How many slots of `capacity` places fit beside a group of prompts, and how many tokens that may have.

        held: bytes that the cache takes already, which count as free.
        """
        room = self.room(held)
        tokens = max(1, min(MOST_TOKENS, int(room * PROMPTS / self.token_bytes)))
        slots = int((room - tokens * self.token_bytes) / (self.place_bytes * capacity + self.row_bytes))
        return max(1, min(MOST_SLOTS, slots)), tokens


class Cards:
    """The memory of all cards that a model is spread over, mostly one: the scarcest decides."""

    def __init__(self, model: torch.nn.Module, share: float = 1.0):
        devices = sorted({parameter.device for parameter in model.parameters()}, key=lambda device: device.index)
        self.memories = [Memory(device, share) for device in devices]

    @property
    def measured(self) -> bool:
        return bool(self.memories[0].token_bytes)

    def watch(self) -> None:
        for memory in self.memories:
            memory.watch()

    def measure(self, group: Prefilled) -> None:
        for memory in self.memories:
            memory.measure(group)

    @property
    def bear_twice(self) -> bool:
        """Whether what was taken since `watch`, and is free again, would fit in twice."""
        return all(2 * memory.taken <= memory.room() for memory in self.memories)

    def plan(self, capacity: int, held: Mapping[torch.device, int]) -> tuple[int, int]:
        """As Memory's. held: of each device, the bytes that the cache takes already."""
        plans = [memory.plan(capacity, held.get(memory.device, 0)) for memory in self.memories]
        return min(slots for slots, _ in plans), min(tokens for _, tokens in plans)
