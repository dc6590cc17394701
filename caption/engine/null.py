"""An engine that computes nothing: what is left is everything around it, to test and to time."""

import time
import zlib

import numpy as np
from PIL import Image

from caption.engine import Answer, EngineOptions, NotFound
from caption.engine.holding import HoldingEngine


class NullPreparer:
    """Describes the item: its key, and size and checksum of the picture where one is given."""

    needs_image = False
    chat_template = None

    def prepare(
        self,
        image: Image.Image | None,
        prompt: str | None = None,
        max_pixels: int | None = None,
        key: str = "",
    ) -> dict[str, np.ndarray]:
        """Return {"text": uint8[1, length]}: the caption, as UTF-8."""
        words = [key] if key else []
        if image is not None:
            words.append(f"{image.width}x{image.height} {zlib.crc32(image.tobytes()):08x}")
        return {"text": np.frombuffer(" ".join(words).encode(), np.uint8)[None]}


AUTO_SLOTS = 8


class NullEngine(HoldingEngine):
    """Answers each request with the text that the preparer put in it, after "null:MS" milliseconds a picture."""

    usual_slots = AUTO_SLOTS

    def __init__(self, options: EngineOptions):
        super().__init__(options)
        try:
            self.seconds = float(options.model.partition(":")[2] or 0) / 1000
        except ValueError:
            raise NotFound(f"{options.model!r} is no model: null:5 takes 5 milliseconds a picture") from None

    def step(self) -> list[Answer]:
        if self.seconds:
            time.sleep(self.seconds * len(self.held))
        texts = ((request.key, request.inputs["text"].tobytes().decode()) for request in self.take())
        return [Answer(key, text, "stop", len(text.split())) for key, text in texts]

    def describe(self) -> dict:
        return {"engine": "null", "milliseconds": self.seconds * 1000}
