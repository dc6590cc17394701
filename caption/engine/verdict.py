"""What a check found, kept for the next worker and the next run: a model is compared once on a kind of device."""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from caption import cache
from caption.engine import EngineOptions


@dataclass(frozen=True)
class Verdict:
    """way: how many faster ways were tried before this one. faults: why each of those was not taken."""

    way: int
    faults: tuple[str, ...] = ()


def recall(options: EngineOptions) -> Verdict | None:
    """What was kept of the same model, prompts, precision, device, versions and engine; None: nothing."""
    kept = cache.recall(_name(options)) if options.model_identity else None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return kept and Verdict(int(kept["way"]), tuple(map(str, kept["faults"])))
    return None


def keep(options: EngineOptions, verdict: Verdict) -> None:
    """Write it down, where the model's content has a name."""
    if options.model_identity:
        cache.keep(_name(options), vars(verdict))


def _name(options: EngineOptions) -> str:
    device = f"{options.gpus} {torch.cuda.get_device_name()}" if options.device == "cuda" else options.device
    asked = [options.prompt, options.system_prompt]
    parts = [options.model_identity, *asked, options.dtype, device, torch.__version__, transformers.__version__]
    digest = hashlib.blake2b("\0".join(parts).encode(errors="surrogateescape"), digest_size=16)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return f"checked/{digest.hexdigest()}"
