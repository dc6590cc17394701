"""Agreement of a caption with reference captions: whether it is one of them, and chrF++ by sacrebleu.

CIDEr weighs each n-gram by how rare it is in the whole corpus, so a row's figure changes as the corpus grows, and the
library that has it wants Java for its words. chrF++ (letters and words, F2) needs one caption and its references.
"""

import numpy as np
import orjson
from PIL import Image

from caption.engine import EngineOptions, Request, Scored
from caption.engine.holding import HoldingEngine

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


class ReferenceEngine(HoldingEngine):
    """The score is chrF++ between 0 and 1, against the reference that is nearest; parts: "exact" (0 or 1) and "chrf".

    Exact is meant up to case, spaces and a full stop at the end.
    """

    usual_slots = 64

    def __init__(self, options: EngineOptions):
        from sacrebleu.metrics import CHRF  # looked for by caption.scorer

        super().__init__(options)
        self.chrf = CHRF(word_order=2)

    def step(self) -> list[Scored]:
        return [self._score(request) for request in self.take()]

    def _score(self, request: Request) -> Scored:
        caption, references = orjson.loads(request.inputs[TEXT].tobytes())
        chrf = round(self.chrf.sentence_score(caption, references).score / 100, 6)
        exact = float(_plain(caption) in map(_plain, references))
        return Scored(request.key, chrf, {"exact": exact, "chrf": chrf})

    def describe(self) -> dict:
        from importlib import metadata

        return {"engine": "reference", "metric": "chrF++", "versions": {"sacrebleu": metadata.version("sacrebleu")}}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()
