"""Triton kernels that resize a picture to the same bytes as Pillow, and cut its tiles.

Importing this file needs Triton, and the first call of each kernel a C compiler.
"""

import functools
import itertools

import numpy as np
import torch
import triton
import triton.language as tl

from caption.engine.pinned import send
from caption.engine.resample import BITS, FILTERS, resized, weights
from caption.engine.tiles import Resize, Tiles

ROWS, COLUMNS, PIXELS = 2, 512, 1024  # of a program


def write(
    tiles: Tiles, raws: torch.Tensor, values: torch.Tensor, output: torch.Tensor, rows: tuple[int, ...]
) -> None:
    """Make the tiles of pictures that are all of one size: one by one they take the host longer than the device.

    Those of `raws`, uint8[pictures, channels, ...] on the device, as `tiles` has it of its own, go into these rows of
    `output`, [any, tiles, channels, height, width], each byte as what stands for it in `values`, [channels, 256].
    """
    count, channels, (height, width) = len(raws), raws.shape[1], tiles.size
    pictures: dict[tuple[Resize, ...], torch.Tensor] = {(): raws.flatten(0, 1)}
    for chain in dict.fromkeys(tile.resizes for tile in tiles.tiles):
        for done, step in enumerate(chain, 1):
            if chain[:done] not in pictures:
                pictures[chain[:done]] = resize(pictures[chain[: done - 1]], *step)
        made_so = [(place, tile) for place, tile in enumerate(tiles.tiles) if tile.resizes == chain]
        of_chain = tuple((place, tile.top, tile.left) for place, tile in made_so)
        source = pictures[chain]
        _cut[(count * len(of_chain) * channels, triton.cdiv(height * width, PIXELS))](
            source, _on_device(of_chain, raws.device), _on_device(rows, raws.device), values, output, source.shape[1],
            source.shape[2], height, width, output.stride(0), output.stride(1), len(of_chain), channels, PIXELS,
            num_warps=4,
        )  # fmt: skip


def resize(picture: torch.Tensor, height: int, width: int, resample: int, rows_first: bool) -> torch.Tensor:
    """uint8[channels, height, width] of one of any size, contiguous. The rest is as tiles.Resize has it."""
    for down in (True, False) if rows_first else (False, True):
        before, after = (picture.shape[1], height) if down else (picture.shape[2], width)
        if before == after:
            continue
        first, weight = _weights(before, after, resample, picture.device)
        channels, rows, columns = picture.shape
        made = picture.new_empty((channels, after, columns) if down else (channels, rows, after))
        if down:
            grid = triton.cdiv(after, ROWS), triton.cdiv(columns, COLUMNS), channels
            _down[grid](picture, first, weight, made, before, after, columns, len(weight), ROWS, COLUMNS, BITS)
        else:
            lines = channels * rows
            grid = triton.cdiv(lines, ROWS), triton.cdiv(after, COLUMNS)
            _across[grid](picture, first, weight, made, lines, before, after, len(weight), ROWS, COLUMNS, BITS)
        picture = made
    return picture


def agree_with_pillow() -> bool:
    """Whether a small picture comes out as resample.resized makes it, which was compared with Pillow before."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    source = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).cuda()
    for kind, rows_first in itertools.product(FILTERS, (True, False)):
        ours = resize(source, 21, 57, kind, rows_first)
        if not np.array_equal(ours.cpu().numpy().transpose(1, 2, 0), resized(pixels, 21, 57, kind, rows_first)):
            return False
    return True


@functools.lru_cache(1024)
def _weights(before: int, after: int, resample: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(send(torch.from_numpy(one), device) for one in weights(before, after, resample))


@functools.lru_cache(256)
def _on_device(figures: tuple, device: torch.device) -> torch.Tensor:
    return send(torch.from_numpy(np.array(figures, np.int32)), device)


# Sizes change with every picture: no kernel of its own for each kind of them.
@triton.jit(do_not_specialize=["lines", "before", "after", "taps"])
def _across(
    source, first, weight, output, lines, before, after, taps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real = column < after
    begin = tl.load(first + column, mask=real, other=0)
    inside = (line[:, None] < lines) & real[None, :]
    total = tl.full([ROWS, COLUMNS], 1 << (BITS - 1), tl.int32)
    for tap in range(taps):
        place = tl.minimum(begin + tap, before - 1)  # what lies beyond has no weight
        factor = tl.load(weight + tap * after + column, mask=real, other=0)
        pixel = tl.load(source + line[:, None] * before + place[None, :], mask=inside, other=0)
        total += pixel.to(tl.int32) * factor[None, :]
    made = tl.minimum(tl.maximum(total >> BITS, 0), 255)
    tl.store(output + line[:, None] * after + column[None, :], made.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["before", "after", "width", "taps"])
def _down(
    source, first, weight, output, before, after, width, taps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column, channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(2).to(tl.int64)
    real = row < after
    begin = tl.load(first + row, mask=real, other=0)
    inside = real[:, None] & (column[None, :] < width)
    source += channel * before * width
    total = tl.full([ROWS, COLUMNS], 1 << (BITS - 1), tl.int32)
    for tap in range(taps):
        place = tl.minimum(begin + tap, before - 1)
        factor = tl.load(weight + tap * after + row, mask=real, other=0)
        pixel = tl.load(source + place[:, None] * width + column[None, :], mask=inside, other=0)
        total += pixel.to(tl.int32) * factor[:, None]
    made = tl.minimum(tl.maximum(total >> BITS, 0), 255)
    output += channel * after * width
    tl.store(output + row[:, None] * width + column[None, :], made.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["source_height", "source_width", "tiles"])
def _cut(
    source, places, rows, values, output, source_height, source_width, height, width, output_row, output_tile,
    tiles, channels, PIXELS: tl.constexpr,
):  # fmt: skip
    channel, tile = tl.program_id(0) % channels, tl.program_id(0) // channels % tiles
    picture = (tl.program_id(0) // channels // tiles).to(tl.int64)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    place, top, left = tl.load(places + 3 * tile), tl.load(places + 3 * tile + 1), tl.load(places + 3 * tile + 2)
    inside = pixel < height * width
    row, column = top + pixel // width, left + pixel % width
    there = source + (picture * channels + channel) * source_height * source_width + row * source_width + column
    byte = tl.load(there, mask=inside, other=0).to(tl.int32)
    value = tl.load(values + channel * 256 + byte, mask=inside, other=0.0)
    output += tl.load(rows + picture).to(tl.int64) * output_row + place.to(tl.int64) * output_tile
    output += channel.to(tl.int64) * height * width
    tl.store(output + pixel, value.to(output.dtype.element_ty), mask=inside)
