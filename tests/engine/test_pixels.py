"""Pixels as bytes: the device makes the floats of the processor again, to the last bit, or gets floats."""

import numpy as np
import pytest
import torch
from PIL import Image

from caption.engine import load_preparer
from caption.engine.collate import collate
from caption.engine.pixels import Levels, Packed, find_levels, pack_mask
from caption.engine.processor import load_processor
from caption.engine.prompt import make_prompter

from .helpers import options, picture, pictures, unpacked
from .tiny import FAMILIES, PICTURES, prompts_for

# Mllama's empty tiles are zeros behind the normalising; Pix2Struct's is by each picture's own mean.
AS_FLOATS = {"mllama", "pix2struct"}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_sends_bytes_and_the_batch_is_what_its_processor_makes(checkpoint, name):
    prompt = prompts_for(name)[0]
    settings = options(checkpoint(name), prompt=prompt)
    preparer = load_preparer(settings)
    assert bool(preparer.packed) == (name not in AS_FLOATS)
    whole, pixels = make_prompter(settings, load_processor(settings.model)), PICTURES.get(name, "pixel_values")
    for image in pictures(6):
        made = preparer.prepare(image)
        batch = collate([made], 0, "left", "cpu", torch.float32)
        exact = whole(image, prompt)[pixels]
        assert batch[pixels].dtype == torch.float32
        np.testing.assert_array_equal(batch[pixels].numpy(), np.asarray(exact))


@pytest.mark.parametrize(("dtype", "exact"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_is_rounded_once(checkpoint, dtype, exact):
    made = [load_preparer(options(checkpoint("llava"), dtype=one)).prepare(picture(3)) for one in ("fp32", dtype)]
    wide, narrow = (
        collate([one], 0, "left", "cpu", kind)["pixel_values"] for one, kind in zip(made, (torch.float32, exact))
    )
    assert torch.equal(wide.to(exact), narrow)


def test_pictures_of_unlike_tiles_are_padded_with_zeros_not_with_black(checkpoint):
    preparer = load_preparer(options(checkpoint("llava_next")))
    items = [preparer.prepare(picture(1, 64, 64)), preparer.prepare(picture(2, 200, 50))]
    counts = [item["pixel_values"].shape[1] for item in items]
    assert counts[0] != counts[1]
    batch = collate(items, 0, "left", "cpu", torch.float32)["pixel_values"]
    for row, item in enumerate(items):
        np.testing.assert_array_equal(batch[row, : counts[row]].numpy(), unpacked(item["pixel_values"])[0])
        assert not batch[row, counts[row] :].any()


def test_masks_over_pixels_are_packed_and_small_ones_of_the_same_batch_are_not():
    large, small = np.ones((1, 2, 128, 128), np.int64), np.ones((1, 1, 8, 8), np.int64)
    items = [
        {"input_ids": np.ones((1, 3), np.int64), "pixel_attention_mask": pack_mask(mask)} for mask in (large, small)
    ]
    assert [type(item["pixel_attention_mask"]) for item in items] == [Packed, np.ndarray]
    mask = collate(items, 0, "left", "cpu", torch.float32)["pixel_attention_mask"]
    assert (mask.dtype, tuple(mask.shape)) == (torch.int64, (2, 2, 128, 128))
    assert mask[0].all()
    assert int(mask[1].sum()) == 64
    for other in (large * 256, -large, large * 0.5):
        assert pack_mask(other) is other


class Processor:
    """Scales and shifts, and then does what a test wants."""

    def __init__(self, then=lambda floats, raw: floats, **steps):
        self.do_rescale = self.do_normalize = True
        self.then = then
        vars(self).update(steps)

    def __call__(self, image: Image.Image) -> dict:
        raw = np.asarray(image).transpose(2, 0, 1)[None]
        if not self.do_rescale:
            return {"pixel_values": raw}
        mean = np.array([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1)
        return {"pixel_values": self.then((raw * np.float32(1 / 255) - mean) / np.float32(0.7), raw)}


def test_a_plain_processor_is_told_by_its_bytes():
    processor = Processor()
    assert find_levels(processor, processor)["pixel_values"].axis == -3
    assert (processor.do_rescale, processor.do_normalize) == (False, False)


@pytest.mark.parametrize(
    "processor",
    [
        Processor(lambda floats, raw: np.pad(floats, ((0, 0), (0, 0), (1, 1), (1, 1)))),
        Processor(lambda floats, raw: floats - floats.mean()),
        Processor(lambda floats, raw: np.where(np.arange(raw.shape[3]) % 2, floats, 0)),
        Processor(lambda floats, raw: floats.astype(np.float64)),
        Processor(lambda floats, raw: floats.transpose(0, 1, 3, 2)),
        Processor(lambda floats, raw: raw // 2),
        Processor(do_rescale=False, do_normalize=False),
    ],
    ids=["other shape", "by the picture", "by the place", "double", "turned", "no floats", "nothing to leave out"],
)
def test_what_bytes_do_not_tell_is_sent_as_floats_by_a_processor_left_as_it_was(processor):
    before = processor.do_rescale, processor.do_normalize
    assert find_levels(processor, processor) == {}
    assert (processor.do_rescale, processor.do_normalize) == before


@pytest.mark.parametrize(("shape", "axis", "run"), [((2, 3, 5, 7), -3, 1), ((5, 7, 3), -1, 1), ((4, 24), -1, 4)])
def test_each_place_has_the_levels_of_its_channel(shape, axis, run):
    values = np.arange(3 * 256, dtype=np.float32)
    raw = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    item = {"input_ids": np.ones((1, 1), np.int64), "x": Packed(raw, Levels(values.tobytes(), axis, run))}
    found = collate([item], 0, "left", "cpu", torch.float32)["x"].numpy()
    place = np.indices(shape)[axis]
    np.testing.assert_array_equal(found, 256 * (place // run % 3) + raw)


@pytest.mark.gpu
def test_arrays_in_shared_memory_arrive_on_the_gpu_and_are_kept_until_then():
    from caption.engine.pinned import lock_pages
    from caption.sharedmemory import Incoming, Outgoing, new_memory

    torch.zeros(1, device="cuda")
    memory = Incoming(new_memory())
    outgoing = Outgoing(memory.descriptor)
    levels = Levels(np.arange(768, dtype=np.float32).tobytes(), -3, 1)
    for number in range(50):
        raw = np.random.default_rng(number).integers(0, 256, (4, 3, 256, 256), dtype=np.uint8)
        outgoing.free(memory.freed())
        item = memory.unpack(outgoing.pack({"input_ids": np.ones((1, 1), np.int64), "x": Packed(raw, levels)}))
        memory.lock_pages(lock_pages)
        made = collate([item], 0, "left", "cuda", torch.float32)["x"]
        del item
        expected = raw + 256.0 * np.arange(3, dtype=np.float32).reshape(3, 1, 1)
        np.testing.assert_array_equal(made.cpu().numpy(), expected)
