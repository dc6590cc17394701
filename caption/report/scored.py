"""Scored: the scores of captions, their mean, spread and histogram; 8 bytes each."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from caption.choose.scores import Scores
from caption.report import charts
from caption.report.counters import Spread
from caption.report.folder import Located

_BLOCK = 1000  # rows whose scores are looked up together
_BINS = 38
_FEW = 40  # whole numbers from the lowest to the highest: each has a bar of its own


class Scored:
    """Scores as they come."""

    def __init__(self):
        self._values = array("d")

    def add(self, score: float) -> None:
        self._values.append(score)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def values(self) -> np.ndarray:
        """float64."""
        return np.array(self._values)

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation."""
        return float(self.values.std())

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        return np.quantile(self.values, shares).tolist()


def score_histogram(scored: Mapping[str, Scored]) -> charts.Chart | None:
    """Bars by score, one row of them each of ``scored``, which are by their class in the style sheet."""
    filled = {kind: one.values for kind, one in scored.items() if len(one)}
    if not filled:
        return None
    low, high = min(values.min() for values in filled.values()), max(values.max() for values in filled.values())
    whole = high - low <= _FEW and all((values == np.floor(values)).all() for values in filled.values())
    step = 0.0 if whole else charts.top_and_ticks((high - low) / _BINS * 4)[1][1]
    spreads = {kind: Spread() for kind in scored}
    for kind, values in filled.items():
        counted = np.unique(np.floor(values / (step or 1) + 1e-9).astype(np.int64), return_counts=True)
        spreads[kind].counts.update(dict(zip(*(part.tolist() for part in counted))))
    return charts.histogram(spreads, "", 0.0, step)


def with_scores(rows: Iterator[Located], scores: Scores) -> Iterator[Located]:
    """The same rows, each with its score if it has one."""
    while block := list(itertools.islice(rows, _BLOCK)):
        scores.add_to([located.row for located in block])
        yield from block


def score(value: float) -> str:
    """A score in words: 0.320, 7, -12.4, 1,250."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:#.3g}"
