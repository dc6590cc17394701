"""Sampled captions belong to (seed, step, token id): not to a batch, a place in it, or an order."""

import random

import pytest
import torch

from caption.engine import Request, load_engine, load_preparer
from caption.engine.sampling import NonFiniteWatch, RepetitionPenalty, gumbel_noise

from .helpers import caption_all, options, pictures, spell_ids
from .tiny import prompts_for


def captions(checkpoint, name, batch_size, order, **changes):
    prompts = prompts_for(name)
    settings = options(checkpoint(name), prompt=prompts[0], batch_size=batch_size, **changes)
    engine, preparer = load_engine(settings), load_preparer(settings)
    spell_ids(engine)
    images = pictures(8)
    requests = [Request(i, preparer.prepare(images[i], prompts[i % 3]), seed=1000 + i) for i in order]
    return {key: answer.text for key, answer in caption_all(engine, requests).items()}


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm", "blip", "florence2"])
def test_the_same_words_whatever_the_batch_and_the_order(checkpoint, name):
    sampling = {"temperature": 0.8, "top_p": 0.95, "top_k": 50}
    one = captions(checkpoint, name, 1, range(8), **sampling)
    order = list(range(8))
    for batch_size in (2, 4, 8):
        random.Random(batch_size).shuffle(order)
        assert captions(checkpoint, name, batch_size, order, **sampling) == one
    greedy = captions(checkpoint, name, 4, range(8), **{**sampling, "temperature": 0.0})
    assert sum(one[i] != greedy[i] for i in range(8)) >= 6


def test_another_seed_gives_other_words(checkpoint):
    settings = options(checkpoint("llava"), temperature=1.0)
    engine, preparer = load_engine(settings), load_preparer(settings)
    inputs = preparer.prepare(pictures(1)[0])
    answers = caption_all(engine, [Request(seed, inputs, seed) for seed in (1, 2, -3, 2**63, 2**70)])
    assert len({answer.text for answer in answers.values()}) == 5


def test_noise_is_a_function_of_seed_step_and_token():
    seeds = torch.tensor([3, -5, 2**62])
    all_of_them = gumbel_noise(seeds, torch.tensor([7, 8, 9]), 1000)
    assert torch.equal(gumbel_noise(seeds[1:2], torch.tensor([8]), 300)[0], all_of_them[1, :300])
    assert not torch.equal(gumbel_noise(seeds[1:2], torch.tensor([7]), 1000)[0], all_of_them[1])
    assert all_of_them.isfinite().all()


def test_noise_draws_from_the_softmax():
    """100,000 draws of 5 tokens: each count within 4.5 standard deviations of what softmax says."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
    draws = 100_000
    drawn = (logits + gumbel_noise(torch.arange(draws), torch.zeros(draws, dtype=torch.int64), 5)).argmax(1)
    share = logits.softmax(0)
    deviation = (share * (1 - share) * draws).sqrt()
    assert ((drawn.bincount(minlength=5) - share * draws).abs() < 4.5 * deviation).all()


def test_noise_of_neighbouring_seeds_and_steps_is_unrelated():
    seeds = torch.arange(200)
    now, later = (gumbel_noise(seeds, torch.full_like(seeds, step), 500) for step in (0, 1))
    for first, second in ((now, later), (now[:-1], now[1:]), (now[:, :-1], now[:, 1:])):
        together = torch.stack([first.flatten(), second.flatten()])
        assert abs(torch.corrcoef(together)[0, 1]) < 0.015
    assert now.mean() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert now.var() == pytest.approx(torch.pi**2 / 6, abs=0.05)


def test_repetition_penalty_is_the_same_in_a_padded_batch(checkpoint):
    """Even where padding is the token that ends a text."""
    alone, together = (captions(checkpoint, "qwen2_5_vl", size, range(4), repetition_penalty=1.5) for size in (1, 4))
    assert alone == together
    assert alone != captions(checkpoint, "qwen2_5_vl", 4, range(4))


def test_repetition_penalty_skips_padding():
    ids = torch.tensor([[9, 9, 4, 5, 6]])
    scores = RepetitionPenalty(torch.tensor([2.0]), torch.tensor([[0, 0, 1, 1]]))(ids, torch.ones(1, 10) * 4)
    assert scores[0].tolist() == [4, 4, 4, 4, 2, 2, 2, 4, 4, 4]


def test_watch_notes_the_first_step_that_was_not_finite():
    watch = NonFiniteWatch(4, 2, torch.device("cpu"))
    fine, banned = torch.zeros(5), torch.tensor([0, -torch.inf, 0, 0, 0])
    nan, inf = torch.tensor([0, torch.nan, 0, 0, 0]), torch.tensor([0, torch.inf, 0, 0, 0])
    watch(torch.zeros(4, 2), torch.stack([fine, banned, fine, fine]))
    watch(torch.zeros(4, 3), torch.stack([fine, banned, nan, inf]))
    watch(torch.zeros(4, 4), torch.stack([fine, -torch.inf * torch.ones(5), nan, fine]))
    assert watch.first.tolist() == [watch.NEVER, 2, 1, 1]
