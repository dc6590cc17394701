"""Prompts one behind the other: what the host knows of their padding is not asked of the device."""

import contextlib

import numpy as np
import pytest
import torch

from caption.engine import load_engine, packing
from caption.engine.collate import collate, padding
from caption.engine.pixels import Packed

from .helpers import options
from .test_slots import requests_for, texts


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm", "llava_next"])
def test_captions_are_the_same_and_nobody_asks(checkpoint, monkeypatch, name):
    settings = options(checkpoint(name), batch_size=5, max_new_tokens=6)
    requests = requests_for(settings.model, name, 8)
    assert len({request.prompt_tokens for request in requests}) > 1
    asked, nonzero = [], torch.Tensor.nonzero

    def ask(mask, *args, **kwargs):
        asked.append(mask)
        return nonzero(mask, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "nonzero", ask)
    engine = load_engine(settings)
    asked.clear()
    made = texts(engine, requests)
    assert not asked
    monkeypatch.setattr(packing, "told", lambda *_: contextlib.nullcontext())
    assert texts(engine, requests) == made
    assert asked


def test_padding_that_was_told_of_other_prompts_does_not_count(checkpoint, monkeypatch):
    settings = options(checkpoint("llava_next"), batch_size=5, max_new_tokens=6)
    engine, requests = load_engine(settings), requests_for(settings.model, "llava_next", 8)
    expected, told = texts(engine, requests), packing.told
    monkeypatch.setattr(packing, "told", lambda missing, tokens: told([0, *missing], tokens + 1))
    assert texts(engine, requests) == expected


def test_padding_is_told_by_the_masks_that_are_collated():
    masks = [[1, 1, 1], [0, 1], [1, 1, 1, 1, 1]]
    items = [{"input_ids": np.ones((1, len(mask)), np.int64), "attention_mask": np.array([mask])} for mask in masks]
    assert padding(items) == [2, 4, 0]
    assert padding(items) == (collate(items, 0, "left", "cpu", torch.float32)["attention_mask"] == 0).sum(1).tolist()


@pytest.mark.parametrize("mask", [None, Packed(np.ones((1, 9), np.uint8))])
def test_nothing_is_told_where_the_host_does_not_see_a_mask(mask):
    assert padding([{"attention_mask": np.ones((1, 9), np.int64)}, {"attention_mask": mask}]) is None
