"""Whether a faster form of a part of a model does what the part does."""

from collections.abc import Callable

import torch

# Distance to the original, as a share of its norm, that rounding explains.
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5}
# The same of logits, by the options' names: how far they may lie apart, as a share of the largest.
LOGITS = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 6e-2}

# What a call with arguments that a part does not expect ends in. A kernel that can't be made is something else.
ASKED_WRONGLY = (RuntimeError, TypeError, ValueError, AttributeError, LookupError)


def agree(ours: Callable, theirs: Callable, example: torch.Tensor) -> bool:
    """Whether both make the same tensor of the example, but for rounding. A part that can't be asked so has no faster
    form."""
    try:
        made, expected = ours(example), theirs(example)
    except torch.OutOfMemoryError:
        raise
    except ASKED_WRONGLY:
        return False
    if not torch.is_tensor(expected) or made.dtype != expected.dtype or made.shape != expected.shape:
        return False
    apart = (made.double() - expected.double()).norm()
    return bool(apart <= TOLERANCE.get(example.dtype, 0) * expected.double().norm())


def apart(made: torch.Tensor, reference: torch.Tensor) -> float:
    """How far logits lie from the reference where that is finite, as a share of its largest. NaN where all is lost."""
    finite = reference.isfinite()
    return float((made - reference).where(finite, 0).abs().amax() / reference.where(finite, 0).abs().amax())


def noise(*shape: int, like: torch.Tensor) -> torch.Tensor:
    """Normal numbers, the same for the same number of dimensions, as `like` is."""
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(*shape, generator=generator).to(like.device, like.dtype)
