"""Agreement of a caption with reference captions: whether it is one of them, and chrF++ by sacrebleu.

CIDEr weighs each n-gram by how rare it is in the whole corpus, so a row's figure changes as the corpus grows, and the
library that has it is no longer kept. chrF++ (letters and words, F2) needs one caption and its references.
"""

from collections.abc import Iterable

import numpy as np
import orjson
from PIL import Image

from caption.engine import Adapter, EngineOptions, Request, Scored
from caption.engine.errors import DoesNotLoad

AUTO_SLOTS = 64
TEXT = "text"


def told(caption: str, references: list[str]) -> str:
    """What an item says in place of a prompt."""
    return orjson.dumps([caption, references]).decode()


class ReferencePreparer:
    """Passes on what the item says; no picture is opened."""

    needs_image = False
    chat_template = None

    def prepare(
        self,
        image: Image.Image | None,
        prompt: str | None = None,
        max_pixels: int | None = None,
        key: str = "",
    ) -> dict[str, np.ndarray]:
        """Return {"text": uint8[1, length]}: the prompt, which `told` has made, as UTF-8."""
        return {TEXT: np.frombuffer((prompt or told("", [])).encode(), np.uint8)[None]}


class ReferenceEngine:
    """The score is chrF++ between 0 and 1, against the reference that is nearest; parts: "exact" (0 or 1) and "chrf".

    Exact is meant up to case, spaces and a full stop at the end. Raises DoesNotLoad where sacrebleu is missing.
    """

    check_seconds = 0.0

    def __init__(self, options: EngineOptions):
        try:
            from sacrebleu.metrics import CHRF
        except ImportError as error:
            raise DoesNotLoad("agreement with references needs sacrebleu: pip install sacrebleu") from error
        self.options, self.chrf = options, CHRF(word_order=2)
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
        """No adapter is ever asked for."""

    def step(self) -> list[Scored]:
        held, self.held = self.held, []
        return [self._score(request) for request in held]

    def _score(self, request: Request) -> Scored:
        caption, references = orjson.loads(request.inputs[TEXT].tobytes())
        chrf = round(self.chrf.sentence_score(caption, references).score / 100, 6)
        exact = float(_plain(caption) in map(_plain, references))
        return Scored(request.key, chrf, {"exact": exact, "chrf": chrf})

    def reset(self) -> None:
        self.held = []

    def describe(self) -> dict:
        from importlib import metadata

        return {"engine": "reference", "metric": "chrF++", "versions": {"sacrebleu": metadata.version("sacrebleu")}}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()
