"""What the loader processes do with a picture: size, processor, arrays for the engine."""

import numpy as np
from PIL import Image

from caption.engine import EngineOptions, library
from caption.engine.checkpoint import read_config
from caption.engine.families import MADE_OF_ONES
from caption.engine.picture import fit
from caption.engine.pixels import Ones, Packed, along_tokens, as_bytes, find_levels, pack_mask
from caption.engine.tiles import MOST, SIZES, gather, gather_masks, plan_with

TILES = "pixel_values"  # the array that processors cut into tiles


class ProcessorPreparer:
    """Prepares pictures with the checkpoint's own processor (Pillow's backend, see processor.py).

    packed: the names of the arrays whose floats are made on the device (pixels.py). plans: whether tiles are cut there
    as well (tiles.py).
    """

    needs_image = True

    def __init__(self, options: EngineOptions, own_process: bool = False):
        self.options = options
        # numpy knows no bf16: such an engine casts fp32 itself. Half as many bytes for fp16 are carried.
        self.float = np.float16 if options.dtype == "fp16" else np.float32
        self.prompter = library.loaded(lambda: _load(options), own_process)
        self.chat_template = self.prompter.chat_template
        self.image_processor = getattr(self.prompter.processor, "image_processor", None)
        self.packed = find_levels(self.image_processor, lambda picture: self.prompter(picture, options.prompt))
        self.made_of_ones = MADE_OF_ONES.get(read_config(options.model).get("model_type"))
        own = type(self.image_processor)
        self.plans = options.device == "cuda" and self._can_plan()
        if type(self.image_processor) is not own and not self.plans:
            self.image_processor.__class__ = own  # it plans in vain

    def prepare(
        self,
        image: Image.Image,
        prompt: str | None = None,
        max_pixels: int | None = None,
        key: str = "",
    ) -> dict[str, np.ndarray | Packed]:
        image = fit(image, self.options.max_pixels if max_pixels is None else max_pixels)
        prompt = self.options.prompt if prompt is None else prompt
        arrays = self._planned(image, prompt) if self.plans else None
        if arrays is None:
            arrays = {name: np.asarray(value) for name, value in self.prompter(image, prompt).items()}
        return {name: self._carried(name, value, along_tokens(value, arrays)) for name, value in arrays.items()}

    def _planned(self, image: Image.Image, prompt: str, most: float = MOST) -> dict[str, np.ndarray | Packed] | None:
        """The arrays, with Tiles among them; None where there is no plan for this picture."""
        self.image_processor.plans = True
        try:
            arrays = self.prompter(image, prompt)
            tiles = gather(arrays[TILES], self.packed[TILES], most)
            if tiles is None:
                return None
            masks = {name: gather_masks(one, tiles) for name, one in arrays.items() if name == self.made_of_ones}
        except Exception:  # of whatever kind: done without a plan it is told, or it is none
            return None
        finally:
            self.image_processor.plans = False
        return {name: np.asarray(one) for name, one in arrays.items()} | masks | {TILES: tiles}

    def _can_plan(self) -> bool:
        """Whether plans lead to the processor's own bytes, by a try."""
        levels = self.packed.get(TILES)
        if levels is None or (levels.axis, levels.run) != (-3, 1) or not plan_with(self.image_processor):
            return False
        noise = np.random.default_rng(0)
        for width, height in SIZES:
            picture = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
            ours = self._planned(picture, self.options.prompt, most=np.inf)
            theirs = self.prompter(picture, self.options.prompt)
            if ours is None or ours.keys() != theirs.keys():
                return False
            plain = {name: one.made().raw if isinstance(one, Packed) else one for name, one in ours.items()}
            if not all(np.array_equal(plain[name], theirs[name]) for name in plain):
                return False
        return True

    def _carried(self, name: str, value: np.ndarray | Packed, tokens: bool) -> np.ndarray | Packed:
        if isinstance(value, Packed):
            return value
        if name == self.made_of_ones and (value == 1).all():
            return Ones(np.ones((), np.uint8), None, value.shape)
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
    from caption.engine.prompt import make_prompter

    return make_prompter(options, load_processor(options.model, options.trust_remote_code))
