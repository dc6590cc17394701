"""Similarity of picture and caption: the cosine of what the two encoders of a CLIP or SigLIP make of them."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F

from caption.engine import Adapter, EngineOptions, Request, Scored, library
from caption.engine.collate import collate
from caption.engine.errors import NotAVisionModel
from caption.engine.pairs import MASK, TEXT

CPU_SLOTS, GPU_SLOTS = 8, 128  # where nobody said how many; the encoders hold no texts that grow
TEXTS = 512  # windows that are encoded at once


class SimilarityEngine:
    """Scores all that it holds in one step. A score is the mean over the windows of its caption, which are its parts.

    Raises what load_weights raises, and NotAVisionModel for a model that does not compare pictures with texts.
    """

    check_seconds = 0.0

    def __init__(self, options: EngineOptions):
        library.quiet()
        from caption.engine.model import DTYPES, load_weights

        if options.threads:
            torch.set_num_threads(options.threads)
        self.options, self.dtype = options, DTYPES[options.dtype]
        self.model = load_weights(options, _find_class)
        if not (hasattr(self.model, "get_image_features") and hasattr(self.model, "get_text_features")):
            raise NotAVisionModel(f"{type(self.model).__name__} in {options.model} compares no pictures with texts")
        self.held: list[Request] = []

    @property
    def slots(self) -> int:
        return self.options.batch_size or (GPU_SLOTS if self.options.device == "cuda" else CPU_SLOTS)

    @property
    def free(self) -> int:
        return self.slots - len(self.held)

    @property
    def busy(self) -> int:
        return len(self.held)

    def admit(self, requests: Iterable[Request]) -> None:
        requests = list(requests)
        if len(requests) > self.free:
            raise ValueError(f"{len(requests)} requests for {self.free} free places")
        self.held += requests

    def adapt(self, adapter: Adapter | None) -> None:
        """No adapter is ever asked for."""

    @torch.inference_mode()
    def step(self) -> list[Scored]:
        held, self.held = self.held, []
        if not held:
            return []
        counts = [request.inputs[TEXT].shape[0] for request in held]
        owners = torch.tensor(np.repeat(np.arange(len(held)), counts), device=self.options.device)
        cosines = (self._images(held)[owners] * self._texts(held)).sum(-1).tolist()
        scored, start = [], 0
        for request, count in zip(held, counts):
            parts = cosines[start : start + count]
            start += count
            score = sum(parts) / count
            flags = () if np.isfinite(score) else ("non-finite",)
            if flags and self.options.dtype != "fp16":
                raise ValueError("the model gave no finite number")
            named = {f"window{number}": round(part, 6) for number, part in enumerate(parts, 1)}
            scored.append(Scored(request.key, round(score, 6) if not flags else 0.0, named if not flags else {}, flags))
        return scored

    def _images(self, held: list[Request]) -> torch.Tensor:
        """Unit vectors, fp32[images, width]."""
        inputs = [{name: value for name, value in one.inputs.items() if name not in (TEXT, MASK)} for one in held]
        # Arrays along the tokens are padded by their length; of pictures none is, so the text's own length goes along.
        batch = collate([one | {TEXT: _NO_TEXT} for one in inputs], 0, "right", self.model.device, self.dtype)
        del batch[TEXT]
        return _unit(self.model.get_image_features(**batch))

    def _texts(self, held: list[Request]) -> torch.Tensor:
        """Unit vectors, fp32[windows, width]."""
        ids, mask = (torch.from_numpy(np.concatenate([one.inputs[name] for one in held])) for name in (TEXT, MASK))
        longest = int(mask.sum(1).max())  # SigLIP's masks are ones to their ends
        ids, mask = (part[:, :longest].to(self.model.device) for part in (ids, mask))
        made = [
            _unit(self.model.get_text_features(input_ids=ids[at : at + TEXTS], attention_mask=mask[at : at + TEXTS]))
            for at in range(0, len(ids), TEXTS)
        ]
        return torch.cat(made)

    def reset(self) -> None:
        self.held = []

    def describe(self) -> dict:
        import transformers

        return {
            "engine": "similarity",
            "model": type(self.model).__name__,
            "dtype": self.options.dtype,
            "device": torch.cuda.get_device_name() if self.options.device == "cuda" else self.options.device,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__},
        }


_NO_TEXT = np.zeros((1, 1), np.int64)


def _find_class() -> type:
    from transformers import AutoModel

    return AutoModel


def _unit(made) -> torch.Tensor:
    vectors = made if isinstance(made, torch.Tensor) else made.pooler_output
    return F.normalize(vectors.float(), dim=-1)
