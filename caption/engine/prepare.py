"""What the loader processes do with a picture: size, processor, arrays for the engine."""

import numpy as np
from PIL import Image

from caption.engine import EngineOptions, library
from caption.engine.checkpoint import read_config
from caption.engine.errors import DoesNotLoad
from caption.engine.picture import fit


class ProcessorPreparer:
    """Prepares pictures with the checkpoint's own processor (Pillow's backend, see processor.py)."""

    needs_image = True

    def __init__(self, options: EngineOptions, own_process: bool = False):
        self.options = options
        # numpy knows no bf16: such an engine casts fp32 itself. Half as many bytes for fp16 cross the pipe.
        self.float = np.float16 if options.dtype == "fp16" else np.float32
        hidden = own_process and library.hide_torch()
        try:
            self.prompter = _load(options)
        except (DoesNotLoad, ImportError):
            if not hidden:
                raise
            library.show_torch()  # some processors are written in torch: those pay for its import
            self.prompter = _load(options)
        self.chat_template = self.prompter.chat_template

    def prepare(
        self,
        image: Image.Image,
        prompt: str | None = None,
        max_pixels: int | None = None,
        key: str = "",
    ) -> dict[str, np.ndarray]:
        image = fit(image, self.options.max_pixels if max_pixels is None else max_pixels)
        arrays = self.prompter(image, self.options.prompt if prompt is None else prompt)
        return {name: self._array(value) for name, value in arrays.items()}

    def _array(self, value) -> np.ndarray:
        value = np.asarray(value)
        return np.ascontiguousarray(value, self.float if value.dtype.kind == "f" else None)


def _load(options: EngineOptions):
    library.quiet()
    from caption.engine.processor import load_processor
    from caption.engine.prompt import Prompter, find_image_token_id

    config = read_config(options.model)
    processor = load_processor(options.model, options.trust_remote_code)
    return Prompter(processor, find_image_token_id(config), options.prompt)
