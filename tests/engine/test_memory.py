"""The number of slots that a card bears, on a card whose memory is taken in part."""

import pytest
import torch

from caption.engine.memory import MOST_SLOTS, MOST_TOKENS, Cards, Memory

GIB = 1 << 30


@pytest.fixture
def card(monkeypatch):
    """A card of 24 GiB of which so much is free as the test says; torch holds 1 GiB without using it."""
    state = {"free": 8 * GIB}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (state["free"], 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * GIB)
    memory = Memory(torch.device("cuda"))
    memory.token_bytes, memory.place_bytes, memory.row_bytes = 200_000.0, 57_344.0, 2_400_000
    return memory, state


def taken(memory: Memory, capacity: int, slots: int, tokens: int) -> float:
    return slots * (capacity * memory.place_bytes + memory.row_bytes) + tokens * memory.token_bytes


@pytest.mark.parametrize("free", [1, 3, 8, 20])
@pytest.mark.parametrize("capacity", [512, 2048])
def test_slots_and_prompts_together_take_most_of_what_is_free_and_no_more(card, free, capacity):
    memory, state = card
    state["free"] = free * GIB
    slots, tokens = memory.plan(capacity, 0)
    room = (free + 1) * GIB - 0.03 * 24 * GIB
    assert 1 <= slots <= MOST_SLOTS and 1 <= tokens <= MOST_TOKENS
    assert taken(memory, capacity, slots, tokens) <= room
    assert slots == MOST_SLOTS or taken(memory, capacity, slots + 1, tokens) > room


def test_what_the_cache_holds_counts_as_free(card):
    memory, state = card
    before = memory.plan(1024, 0)
    state["free"] -= 4 * GIB
    assert memory.plan(1024, 4 * GIB) == before != memory.plan(1024, 0)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_share_a_card_plan_no_more_than_their_part_of_it(card, workers):
    memory, state = card
    memory.share, state["free"] = 1 / workers, 20 * GIB
    slots, tokens = memory.plan(2048, 0)
    own = 0.97 * 24 * GIB / workers - 2 * GIB  # the model is in it
    assert taken(memory, 2048, slots, tokens) <= own < taken(memory, 2048, slots + 1, tokens)


def test_a_share_of_the_card_is_no_more_than_what_is_free(card):
    memory, state = card
    state["free"] = 2 * GIB
    alone = memory.plan(2048, 0)
    memory.share = 0.5
    assert memory.plan(2048, 0) == alone


def test_a_full_card_still_tries_one(card):
    memory, state = card
    state["free"] = 0
    assert memory.plan(4096, 0)[0] == 1


def test_of_several_cards_the_scarcest_decides(card):
    memory, state = card
    state["free"] = 20 * GIB
    other = Memory(torch.device("cuda", 1))
    other.token_bytes, other.place_bytes, other.row_bytes = memory.token_bytes, 3 * memory.place_bytes, memory.row_bytes
    cards = Cards(torch.nn.Module())
    cards.memories = [memory, other]
    held = {other.device: GIB}
    assert cards.plan(2048, held) == other.plan(2048, GIB) < memory.plan(2048, 0)


def test_what_a_batch_took_must_fit_twice_on_each_card_before_batches_are_doubled(card, monkeypatch):
    memory, state = card
    peaks = {memory.device: 5 * GIB, torch.device("cuda", 1): 5 * GIB}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[device])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    cards = Cards(torch.nn.Module())
    cards.memories = [memory, Memory(torch.device("cuda", 1))]
    cards.watch()  # 2 GiB are taken before, so 3 GiB by the batch
    assert cards.bear_twice, "8 GiB are free, and 1 that torch holds"
    state["free"] = 5 * GIB
    assert not cards.bear_twice
    state["free"], peaks[torch.device("cuda", 1)] = 8 * GIB, 7 * GIB
    assert not cards.bear_twice


@pytest.mark.gpu
def test_on_a_card_that_is_nearly_taken_the_plan_can_be_allocated():
    device = torch.device("cuda")
    memory = Memory(device)
    memory.token_bytes, memory.place_bytes, memory.row_bytes = 200_000.0, 57_344.0, 2_400_000
    wide, _ = memory.plan(4096, 0)
    free, total = torch.cuda.mem_get_info(device)
    others = torch.empty(free - total // 10, dtype=torch.uint8, device=device)
    slots, tokens = memory.plan(4096, 0)
    assert slots < wide
    planned = torch.empty(int(taken(memory, 4096, slots, tokens)), dtype=torch.uint8, device=device)
    del others, planned
    torch.cuda.empty_cache()
