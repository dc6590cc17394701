"""Scorer: what gives captions a score, as the user names it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from caption.engine import JUDGE, REFERENCE, SIMILARITY
from caption.errors import UsageError
from caption.model import Model, find_model
from caption.prompts import placeholders
from caption.rating import HIGHEST, RUBRIC
from caption.settings import Settings

_CAPTION = "caption"  # the field of a rubric that the caption takes the place of


@dataclass(frozen=True)
class Scorer:
    """Attributes:
    kind: SIMILARITY, JUDGE or REFERENCE.
    model: hub id, folder or name of an embedded model; of REFERENCE empty.
    rubric: what a judge is asked, with {caption} in it.
    reference: field of the caption's row, or a file.
    """

    kind: str
    model: str = ""
    rubric: str = RUBRIC
    reference: str = ""

    @property
    def writes(self) -> bool:
        """Whether it is a model that writes text."""
        return self.kind == JUDGE

    @property
    def highest(self) -> float | None:
        """Of the ratings that the rubric asks for; None: it is the user's own."""
        return HIGHEST if self.rubric == RUBRIC else None

    def find(self, settings: Settings) -> Model:
        """Its model, downloaded where it is not here yet. Raises ModelNotFound, UsageError."""
        if self.kind == REFERENCE:
            if importlib.util.find_spec("sacrebleu") is None:
                raise UsageError("the scorer reference needs the package sacrebleu", "pip install sacrebleu")
            return Model(REFERENCE, REFERENCE, "chrF++", 0.0)
        trusted = settings.trust_remote_code, settings.allow_pickled_weights
        return find_model(self.model, settings.revision, *trusted)

    def name(self, model: Model) -> str:
        """As the rows have it. model: as ``find`` found it."""
        if self.kind == REFERENCE:
            return f"{REFERENCE}:{Path(self.reference).name}"
        name = model.name.encode(errors="replace").decode()  # of a folder whose path is no UTF-8
        return f"{JUDGE}:{name}" if self.kind == JUDGE else name


def make_scorer(named: str, settings: Settings, captioner: str) -> Scorer:
    """The scorer that a user names: a model's id or folder, judge, judge:MODEL, or reference.

    Args:
        captioner: the model that ``judge`` by itself stands for.

    Raises:
        UsageError: something that this scorer needs is missing, or is not for it.
    """
    kind, _, model = named.partition(":")
    kind = kind if kind in (JUDGE, REFERENCE) and (not model or kind == JUDGE) else SIMILARITY
    if settings.reference and kind != REFERENCE:
        raise UsageError(f"--reference is not for the scorer {named}", "it is for --scorer reference")
    if settings.rubric and kind != JUDGE:
        raise UsageError(f"--rubric is not for the scorer {named}", "it is for --scorer judge")
    if kind == REFERENCE:
        if not settings.reference:
            raise UsageError("the scorer reference needs --reference", "name a field of the rows, or a file")
        return Scorer(kind, reference=settings.reference)
    if kind == JUDGE:
        rubric = settings.rubric or RUBRIC
        if _CAPTION not in placeholders(rubric):
            raise UsageError("--rubric has no {caption} in it", "write {caption} where the caption is to stand")
        return Scorer(kind, model or captioner, rubric)
    return Scorer(kind, named)
