"""What the loader processes do with a picture: size, processor, arrays for the engine."""

import numpy as np
from PIL import Image

from caption.engine import EngineOptions, library
from caption.engine.checkpoint import read_config
from caption.engine.picture import fit
from caption.engine.pixels import Packed, along_tokens, as_bytes, find_levels, pack_mask


class ProcessorPreparer:
    """Prepares pictures with the checkpoint's own processor (Pillow's backend, see processor.py).

    packed: the names of the arrays whose floats are made on the device (pixels.py).
    """

    needs_image = True

    def __init__(self, options: EngineOptions, own_process: bool = False):
        self.options = options
        # numpy knows no bf16: such an engine casts fp32 itself. Half as many bytes for fp16 are carried.
        self.float = np.float16 if options.dtype == "fp16" else np.float32
        self.prompter = library.loaded(lambda: _load(options), own_process)
        self.chat_template = self.prompter.chat_template
        image_processor = getattr(self.prompter.processor, "image_processor", None)
        self.packed = find_levels(image_processor, lambda picture: self.prompter(picture, options.prompt))

    def prepare(
        self,
        image: Image.Image,
        prompt: str | None = None,
        max_pixels: int | None = None,
        key: str = "",
    ) -> dict[str, np.ndarray | Packed]:
        image = fit(image, self.options.max_pixels if max_pixels is None else max_pixels)
        arrays = self.prompter(image, self.options.prompt if prompt is None else prompt)
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        return {name: self._carried(name, value, along_tokens(value, arrays)) for name, value in arrays.items()}

    def _carried(self, name: str, value: np.ndarray, tokens: bool) -> np.ndarray | Packed:
        if name in self.packed:
            raw = as_bytes(value)
            if raw is None:
                raise ValueError(f"the processor gave {name} that are no bytes")
            return Packed(np.ascontiguousarray(raw), self.packed[name])
        value = np.ascontiguousarray(value, self.float if value.dtype.kind == "f" else None)
        return value if tokens else pack_mask(value)


def _load(options: EngineOptions):
    library.quiet()
    from caption.engine.processor import load_processor
    from caption.engine.prompt import Prompter, find_image_token_id

    config = read_config(options.model)
    processor = load_processor(options.model, options.trust_remote_code)
    return Prompter(processor, find_image_token_id(config), options.prompt, options.system_prompt)
