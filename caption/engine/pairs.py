"""What the loader processes do with a picture and its caption: arrays for a model that compares the two."""

import numpy as np
from PIL import Image

from caption.engine import EngineOptions, library
from caption.engine.checkpoint import read_config, read_json
from caption.engine.errors import DoesNotLoad
from caption.engine.picture import fit
from caption.engine.pixels import Packed, as_bytes, find_levels

TEXT, MASK = "input_ids", "attention_mask"
LONGEST = 4096  # tokens; a tokenizer without a limit of its own says some huge number


class PairPreparer:
    """Prepares with the checkpoint's own processor (Pillow's backend, see processor.py), torch not needed.

    A caption that is longer than the text encoder reads becomes several windows, of one length but for the last.
    """

    needs_image = True
    chat_template = None

    def __init__(self, options: EngineOptions, own_process: bool = False):
        self.options = options
        self.float = np.float16 if options.dtype == "fp16" else np.float32  # as in prepare.py
        processor = library.loaded(lambda: _load(options), own_process)
        self.images, self.tokenizer = processor.image_processor, processor.tokenizer
        config = read_config(options.model)
        self.length = _text_length(options.model, config, self.tokenizer)
        # SigLIP's were trained on texts padded to the full length, and see the padding.
        self.sees_padding = config.get("model_type", "").startswith("siglip")
        self.before, self.after = _around(self.tokenizer)
        self.packed = find_levels(self.images, self._process)

    def prepare(
        self,
        image: Image.Image,
        prompt: str | None = None,
        max_pixels: int | None = None,
        key: str = "",
    ) -> dict[str, np.ndarray | Packed]:
        """Return the picture's arrays, and of its caption "input_ids" and "attention_mask", int64[windows, tokens]."""
        image = fit(image, self.options.max_pixels if max_pixels is None else max_pixels)
        arrays = {name: self._carried(name, np.asarray(value)) for name, value in self._process(image).items()}
        return arrays | self.windows(prompt or "")

    def windows(self, text: str) -> dict[str, np.ndarray]:
        """The text as the encoder reads it, in as few windows as it takes, each as long as the others."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        room = self.length - len(self.before) - len(self.after)
        count = max(1, -(-len(ids) // room))
        each = max(1, -(-len(ids) // count))
        parts = [self.before + ids[start : start + each] + self.after for start in range(0, max(1, len(ids)), each)]
        tokens = np.full((len(parts), self.length), self.tokenizer.pad_token_id, np.int64)
        mask = np.full_like(tokens, self.sees_padding)
        for row, part in enumerate(parts):
            tokens[row, : len(part)], mask[row, : len(part)] = part, 1
        return {TEXT: tokens, MASK: mask}

    def _process(self, image: Image.Image) -> dict[str, np.ndarray]:
        return dict(self.images(images=[image], return_tensors="np"))

    def _carried(self, name: str, value: np.ndarray) -> np.ndarray | Packed:
        if name not in self.packed:
            return np.ascontiguousarray(value, self.float if value.dtype.kind == "f" else None)
        raw = as_bytes(value)
        if raw is None:
            raise ValueError(f"the processor gave {name} that are no bytes")
        return Packed(np.ascontiguousarray(raw), self.packed[name])


def _load(options: EngineOptions):
    library.quiet()
    from caption.engine.processor import load_processor

    processor = load_processor(options.model, options.trust_remote_code)
    if getattr(processor, "image_processor", None) is None:
        raise DoesNotLoad(f"{options.model} has no image processor beside its tokenizer")
    return processor


def _text_length(folder: str, config: dict, tokenizer) -> int:
    """Tokens that the text encoder reads at once: the least of what tokenizer and config say.

    A config leaves out what its class has as the default; tokenizers of CLIP name the same.
    """
    named = (config.get("text_config") or {}).get("max_position_embeddings")
    if config.get("model_type", "").startswith("siglip"):
        named = named or 64  # their tokenizers read any length
    stored = read_json(folder, "tokenizer_config.json").get("model_max_length")
    limits = [limit for limit in (named, stored, tokenizer.model_max_length) if isinstance(limit, int) and limit > 0]
    return min([limit for limit in limits if limit <= LONGEST] or [77])


def _around(tokenizer) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer puts before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return whole[:start], whole[start + len(plain) :]
