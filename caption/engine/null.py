"""An engine that computes nothing: what is left is everything around it, to test and to time."""

import time
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image

from caption.engine import Adapter, Answer, EngineOptions, NotFound, Request


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


class NullEngine:
    """Answers each request with the text that the preparer put in it, after "null:MS" milliseconds a picture."""

    check_seconds = 0.0

    def __init__(self, options: EngineOptions):
        self.options = options
        try:
            self.seconds = float(options.model.partition(":")[2] or 0) / 1000
        except ValueError:
            raise NotFound(f"{options.model!r} is no model: null:5 takes 5 milliseconds a picture") from None
        self.held: list[Request] = []

    @property
    def slots(self) -> int:
        return self.options.batch_size or AUTO_SLOTS

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
        """Nothing is computed, so nothing changes."""

    def step(self) -> list[Answer]:
        if self.seconds:
            time.sleep(self.seconds * len(self.held))
        held, self.held = self.held, []
        texts = ((request.key, request.inputs["text"].tobytes().decode()) for request in held)
        return [Answer(key, text, "stop", len(text.split())) for key, text in texts]

    def reset(self) -> None:
        self.held = []

    def describe(self) -> dict:
        return {"engine": "null", "milliseconds": self.seconds * 1000}
