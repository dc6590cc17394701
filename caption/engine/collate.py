"""Several prepared pictures as one batch."""

import numpy as np
import torch

Inputs = dict[str, np.ndarray]


def collate(
    items: list[Inputs], pad_id: int, padding_side: str, device: torch.device | str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return tensors of batch len(items) on `device`, floats cast to `dtype`.

    Arrays along the tokens are padded to the longest on `padding_side`: input_ids with `pad_id`, others with 0. All
    others are padded with zeros at their ends and concatenated: pictures in a dimension of their own get empty tiles,
    which models skip by mask or size, and lists of patches simply follow each other.
    """
    batch = {}
    for name in items[0]:
        arrays = [item[name] for item in items]
        if all(along_tokens(array, item) for array, item in zip(arrays, items)):
            fill = pad_id if name == "input_ids" else 0
            joined = np.concatenate(_pad_tokens(arrays, fill, padding_side))
        else:
            joined = np.concatenate(_pad_ends(arrays))
        tensor = torch.from_numpy(joined)
        batch[name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
    return batch


def along_tokens(array: np.ndarray, item: Inputs) -> bool:
    """Whether dimension 1 runs along the tokens: [1, tokens, ...], as input_ids, masks and token types do.

    Told by the length. A chance hit for another array does no harm: it would have to be hit in each item of a batch
    whose items differ in length.
    """
    return array.ndim >= 2 and array.shape[:2] == item["input_ids"].shape


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
