"""ThenScore: the second stage of one command, ``caption.run … --then-score SCORER``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from caption.console import say
from caption.devices import Seat
from caption.engine import JUDGE
from caption.jobstate import to_go_on
from caption.score.job import check_scorer, score_captions
from caption.scorer import make_scorer
from caption.settings import Settings
from caption.stop import StopSignals
from caption.unloading import Unloading, unloading_lines


class ThenScore:
    """What is wrong with the scorer is said before the first caption is made, not after the last.

    Args:
        settings: of the run.
        seats: of the captioner's workers.

    Raises:
        UsageError, ModelNotFound: there is no such scorer, or it lacks something.
        OtherJob: the folder has scores of another one.
    """

    def __init__(self, settings: Settings, seats: Sequence[Seat]):
        own = settings.then_score == JUDGE  # the captioner judges its own captions
        others = {} if own else {"revision": None, "dtype": "auto", "batch_size": None}
        self._settings = dataclasses.replace(settings, limit=None, **others)
        self._scorer = make_scorer(settings.then_score, settings, settings.model)
        self._model = self._scorer.find(self._settings)
        check_scorer(self._settings, Path(settings.output), self._scorer, self._model)
        self._unloading = Unloading(seats)

    def note_memory(self) -> None:
        """While the captioner is loaded on all its GPUs."""
        self._unloading.note_before()

    def run(self, stop: StopSignals) -> int:
        """When the workers have ended. Returns and raises as score_captions."""
        figures = self._unloading.figures()
        for line in unloading_lines(figures):
            say(line)
        again = shlex.join(["python", "-m", "caption.run", *to_go_on(sys.argv[1:])])
        out = Path(self._settings.output)
        return score_captions(self._settings, out, self._scorer, self._model, stop, again, figures)
