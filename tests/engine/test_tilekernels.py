"""Tiles cut by kernels. On a GPU; without one, in Triton's interpreter where TRITON_INTERPRET=1 is set."""

import numpy as np
import pytest
import torch
from PIL import Image

from .interpreted import DEVICE, INTERPRETED, MARK  # isort: skip (what follows needs Triton)

from caption.engine import collate, load_engine, tilekernels
from caption.engine.base import load
from caption.engine.generate import GenerateEngine
from caption.engine.resample import FILTERS, find_order
from caption.engine.tiles import Tiles

from .helpers import options, picture
from .test_slots import Request, texts
from .test_tiles import PLANNING, SIZES, prepared

pytestmark = MARK
# width, height before and after
SMALL = ((40, 30, 90, 70), (90, 70, 40, 30), (7, 150, 130, 9), (1, 1, 20, 20), (50, 40, 50, 20), (33, 21, 80, 21))
LARGE = ((640, 480, 2048, 1536), (2048, 1536, 512, 512), (1000, 3000, 683, 2048), (4000, 3000, 2048, 1536))


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("sizes", SMALL if INTERPRETED else (*SMALL, *LARGE))
def test_a_resize_makes_the_bytes_of_pillow(kind, sizes):
    width, height, columns, rows = sizes
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((columns, rows), kind))
    ours = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(DEVICE)
    made = tilekernels.resize(ours, rows, columns, kind, find_order()(height, width, rows, columns))
    assert np.array_equal(made.cpu().numpy().transpose(1, 2, 0), expected)


@pytest.mark.parametrize("name", PLANNING)
def test_tiles_lie_in_their_places_as_the_values_of_their_bytes(checkpoint, name):
    for number, size in enumerate(SIZES):
        images = [picture(number, *size), picture(number + 9, *size)]
        alike = [item["pixel_values"] for item in prepared(checkpoint(name), "cuda", images)]
        tiles = alike[0]
        assert isinstance(tiles, Tiles)
        values = torch.from_numpy(np.frombuffer(tiles.levels.values, np.float32).copy()).to(DEVICE)
        _, count, *sizes = tiles.shape
        batch = torch.full((4, count + 1, *sizes), 7.0, device=DEVICE)
        raws = torch.from_numpy(np.stack([one.raw for one in alike])).to(DEVICE)
        tilekernels.write(tiles, raws, values, batch, (3, 1))
        channel = torch.arange(3, device=DEVICE).view(3, 1, 1)
        for row, one in zip((3, 1), alike):
            made = torch.from_numpy(one.made().raw).to(DEVICE).long()
            assert torch.equal(batch[row, :count], values[made + 256 * channel][0])
        assert (batch[::2] == 7).all() and (batch[:, count] == 7).all()


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
@pytest.mark.parametrize("name", PLANNING)
def test_captions_of_tiles_cut_on_the_gpu_are_those_of_tiles_cut_before(checkpoint, name):
    settings = options(checkpoint(name), device="cuda", batch_size=4, max_new_tokens=6)
    images = [picture(number, *size) for number, size in enumerate((*SIZES, (300, 200)))]
    planned, made = (
        [Request(key, inputs, key) for key, inputs in enumerate(prepared(settings.model, device, images))]
        for device in ("cuda", "cpu")
    )
    engine, plain = load_engine(settings), GenerateEngine(settings, load(settings))
    assert engine.name == "slots", engine.fallback
    assert collate.tile_kernels("cuda") is tilekernels
    assert texts(engine, planned) == texts(engine, made) == texts(plain, planned) == texts(plain, made)
