"""Several prepared pictures as one batch."""

import functools
import importlib.util
from collections import deque
from types import ModuleType

import numpy as np
import torch

from caption.engine.pinned import send
from caption.engine.pixels import Levels, Ones, Packed, along_tokens
from caption.engine.tiles import Tiles

Inputs = dict[str, np.ndarray | Packed]


def collate(
    items: list[Inputs], pad_id: int, padding_side: str, device: torch.device | str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return tensors of batch len(items) on `device`, floats cast to `dtype`.

    Arrays along the tokens are padded to the longest on `padding_side`: input_ids with `pad_id`, others with 0. All
    others are padded with zeros at their ends and concatenated: pictures in a dimension of their own get empty tiles,
    which models skip by mask or size, and lists of patches simply follow each other.

    What is all ones, and made by the model itself, is left out. The host never waits for the device.
    """
    if any(item.keys() != items[0].keys() for item in items):
        unlike = sorted(set().union(*items) - set.intersection(*(set(item) for item in items)))
        raise ValueError(f"only some of these pictures have {', '.join(unlike)}")
    device, batch = torch.device(device), {}
    for name in items[0]:
        arrays = [item[name] for item in items]
        if all(isinstance(array, Ones) for array in arrays) and len({array.shape[2:] for array in arrays}) == 1:
            continue
        if any(isinstance(array, Packed) for array in arrays):
            batch[name] = _unpack(arrays, device, dtype)
            continue
        if all(along_tokens(array, item) for array, item in zip(arrays, items)):
            fill = pad_id if name == "input_ids" else 0
            joined = np.concatenate(_pad_tokens(arrays, fill, padding_side))
        else:
            joined = np.concatenate(_pad_ends(arrays))
        tensor = torch.from_numpy(joined)
        batch[name] = send(tensor.to(dtype) if tensor.is_floating_point() else tensor, device)
    _in_flight.note(device, [value for item in items for value in item.values() if isinstance(value, Packed)])
    return batch


def padding(items: list[Inputs]) -> list[int] | None:
    """How much of each prompt's mask is none of it, once `collate` has made all as long as the longest; None where the
    items don't tell."""
    masks = [item.get("attention_mask") for item in items]
    if not all(isinstance(mask, np.ndarray) and mask.ndim == 2 for mask in masks):
        return None
    longest = max(mask.shape[1] for mask in masks)
    return [longest - int(np.count_nonzero(mask)) for mask in masks]


def _unpack(arrays: list[Packed | np.ndarray], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The arrays behind each other, padded with zeros at their ends. Without levels some may be too small to pack."""
    arrays = [array if isinstance(array, Packed) else Packed(array) for array in arrays]
    rows = sum(array.shape[0] for array in arrays)
    shape = [rows, *(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays)))]
    whole = torch.zeros(shape, device=device, dtype=dtype if arrays[0].levels else torch.int64)
    cut: dict[tuple, list[tuple[int, Tiles]]] = {}  # row and tiles of pictures that are made alike
    start = 0
    for array in arrays:
        if isinstance(array, Tiles) and array.size == whole.shape[-2:] and tile_kernels(device.type):
            cut.setdefault((array.raw.shape, array.tiles, array.levels), []).append((start, array))
        else:
            array = array.made()
            place = (slice(start, start + array.shape[0]), *map(slice, array.shape[1:]))
            # Only for CUDA is noted below what must not be written again before the copy's end.
            raw = torch.from_numpy(array.raw).to(device, non_blocking=device.type == "cuda")
            whole[place] = _look_up(raw, array.levels, dtype) if array.levels else raw
        start += array.shape[0]
    for (size, _, levels), alike in cut.items():
        raws = torch.empty((len(alike), *size), dtype=torch.uint8, device=device)
        for raw, (_, tiles) in zip(raws, alike):
            raw.copy_(torch.from_numpy(tiles.raw), non_blocking=True)
        values, _ = _tables(levels, size[0], device, dtype)
        tile_kernels(device.type).write(alike[0][1], raws, values, whole, tuple(row for row, _ in alike))
    return whole


@functools.cache
def tile_kernels(device: str) -> ModuleType | None:
    """None where there are none for such a device, or they do not make the bytes that Pillow makes."""
    if device != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    from caption.engine import tilekernels

    try:
        return tilekernels if tilekernels.agree_with_pillow() else None
    except Exception:  # no compiler, or whatever keeps Triton from making a kernel; check.py says that it is slower so
        return None


def _look_up(raw: torch.Tensor, levels: Levels, dtype: torch.dtype) -> torch.Tensor:
    values, offsets = _tables(levels, raw.shape[levels.axis], raw.device, dtype)
    return values.index_select(0, (raw + offsets).flatten()).view(raw.shape)


@functools.lru_cache(64)
def _tables(levels: Levels, count: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The values of all channels, and where those of each place's channel begin."""
    values = torch.from_numpy(np.frombuffer(levels.values, np.float32).copy()).to(device, dtype)
    offsets = torch.from_numpy(256 * levels.channel(count)).to(device, torch.int32)
    return values, offsets


class _InFlight:
    """Keeps what is being copied to a GPU: its memory must not be written again before the copy's end."""

    def __init__(self):
        self.copies: deque[tuple[torch.cuda.Event, list[Packed]]] = deque()

    def note(self, device: torch.device, arrays: list[Packed]) -> None:
        while self.copies and self.copies[0][0].query():
            self.copies.popleft()
        if device.type == "cuda" and arrays:
            self.copies.append((torch.cuda.current_stream(device).record_event(), arrays))


_in_flight = _InFlight()


def _pad_tokens(arrays: list[np.ndarray], fill: int, side: str) -> list[np.ndarray]:
    longest = max(array.shape[1] for array in arrays)
    padded = []
    for array in arrays:
        missing = longest - array.shape[1]
        ends = (missing, 0) if side == "left" else (0, missing)
        padded.append(np.pad(array, [(0, 0), ends] + [(0, 0)] * (array.ndim - 2), constant_values=fill))
    return padded


def _pad_ends(arrays: list[np.ndarray]) -> list[np.ndarray]:
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) == 1:
        return arrays
    largest = [max(sizes) for sizes in zip(*shapes)]
    return [
        np.pad(array, [(0, 0)] + [(0, most - size) for most, size in zip(largest, array.shape[1:])]) for array in arrays
    ]
