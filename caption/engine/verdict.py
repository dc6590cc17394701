"""What a check found, kept for the next worker and the next run: a model is compared once on a kind of device."""

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from caption.engine import EngineOptions


@dataclass(frozen=True)
class Verdict:
    """way: how many faster ways were tried before this one. faults: why each of those was not taken."""

    way: int
    faults: tuple[str, ...] = ()


def recall(options: EngineOptions) -> Verdict | None:
    """What was kept of the same model, prompt, precision, device, versions and engine; None: nothing."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(_file(options).read_text(encoding="utf-8"))
        return Verdict(int(kept["way"]), tuple(map(str, kept["faults"])))
    return None


def keep(options: EngineOptions, verdict: Verdict) -> None:
    """Write it down. Where that can't be done, the next worker compares again."""
    if not options.model_identity:
        return
    with contextlib.suppress(OSError):
        file = _file(options)
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent)
        with open(descriptor, "w", encoding="utf-8") as written:
            json.dump(vars(verdict), written)
        os.replace(name, file)


def _file(options: EngineOptions) -> Path:
    """Raises KeyError where the model's content has no name."""
    if not options.model_identity:
        raise KeyError("model_identity")
    device = f"{options.gpus} {torch.cuda.get_device_name()}" if options.device == "cuda" else options.device
    parts = [options.model_identity, options.prompt, options.dtype, device, torch.__version__, transformers.__version__]
    digest = hashlib.blake2b("\0".join(parts).encode(errors="surrogateescape"), digest_size=16)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "caption" / "checked" / f"{digest.hexdigest()}.json"
