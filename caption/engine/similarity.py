"""Similarity of picture and caption: the cosine of what the two encoders of a CLIP or SigLIP make of them."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from caption.engine import EngineOptions, Request, Scored, library
from caption.engine.checkpoint import read_config
from caption.engine.collate import collate
from caption.engine.errors import NotAVisionModel
from caption.engine.holding import HoldingEngine
from caption.engine.pairs import MASK, TEXT

CPU_SLOTS, GPU_SLOTS = 8, 128  # where nobody said how many; the encoders hold no texts that grow
TEXTS = 512  # windows that are encoded at once


class SimilarityEngine(HoldingEngine):
    """Scores all that it holds in one step. A score is the mean over the windows of its caption, which are its parts.

    Raises what load_weights raises, and NotAVisionModel for a model that does not compare pictures with texts.
    """

    def __init__(self, options: EngineOptions):
        library.quiet()
        from caption.engine.model import DTYPES, load_weights

        super().__init__(options)
        if options.threads:
            torch.set_num_threads(options.threads)
        self.dtype = DTYPES[options.dtype]
        self.model = load_weights(options, lambda: _find_class(options.model))
        _check(type(self.model), options.model)

    @property
    def usual_slots(self) -> int:
        return GPU_SLOTS if self.options.device == "cuda" else CPU_SLOTS

    @torch.inference_mode()
    def step(self) -> list[Scored]:
        held = self.take()
        if not held:
            return []
        counts = [request.inputs[TEXT].shape[0] for request in held]
        owners = torch.tensor(np.repeat(np.arange(len(held)), counts), device=self.options.device)
        cosines = (self._images(held)[owners] * self._texts(held)).sum(-1).tolist()
        scored, start = [], 0
        for request, count in zip(held, counts):
            scored.append(self._scored(request, cosines[start : start + count]))
            start += count
        return scored

    def _scored(self, request: Request, cosines: list[float]) -> Scored:
        score = sum(cosines) / len(cosines)
        if math.isfinite(score):
            parts = {f"window{number}": round(cosine, 6) for number, cosine in enumerate(cosines, 1)}
            return Scored(request.key, round(score, 6), parts)
        if self.options.dtype != "fp16":
            raise ValueError("the model gave no finite number")
        return Scored(request.key, 0.0, {}, ("non-finite",))

    def _images(self, held: list[Request]) -> torch.Tensor:
        """Unit vectors, fp32[images, width]."""
        inputs = [{name: value for name, value in one.inputs.items() if name not in (TEXT, MASK)} for one in held]
        # collate tells what runs along the tokens by their number: nothing of a picture does.
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


def _find_class(folder: str) -> type:
    """AutoModel, if what it will make of the folder can compare; what code of its own makes is looked at later."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    name = MODEL_MAPPING_NAMES.get(read_config(folder).get("model_type"))
    if isinstance(name, str) and (found := getattr(transformers, name, None)):
        _check(found, folder)
    return transformers.AutoModel


def _check(found: type, folder: str) -> None:
    if not (hasattr(found, "get_image_features") and hasattr(found, "get_text_features")):
        raise NotAVisionModel(f"{found.__name__} in {folder} compares no pictures with texts")


def _unit(made) -> torch.Tensor:
    vectors = made if isinstance(made, torch.Tensor) else made.pooler_output
    return F.normalize(vectors.float(), dim=-1)
