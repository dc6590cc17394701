"""Comparison: what stands on the page of two output folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from caption.choose.scores import SCORE, Scores
from caption.errors import UsageError
from caption.report import charts
from caption.report.cards import clean, facts, name, pictures_of
from caption.report.content import sizes_of_sets
from caption.report.figures import duration, number, percent
from caption.report.folder import Folder
from caption.report.job import Job
from caption.report.pairs import Keys, Pair, Pairs
from caption.report.scored import score, score_histogram, with_scores
from caption.report.thumbnails import Missing, Thumbnail
from caption.report.words import words_of

_OPENINGS, _SETTINGS, _WORDS = 8, 40, 12
_COMMON_WORDS = 5000  # of each job, of which the telling ones are looked for
_PIECE = re.compile(r"\S+|\s+")
_TELLING_WORD = 0.02  # by which the shares of captions that have it differ
_TELLING = 0.2  # of the words stand in both: else marking the others would mark all


class Side(NamedTuple):
    """One job's part of a card.

    Attributes:
        text: pieces of the caption, and whether the other one lacks that word.
    """

    text: list[tuple[str, bool]]
    failed: bool
    flags: list[str]
    facts: list[tuple[str, str]]
    score: str


class PairShown(NamedTuple):
    """A pair on the page; ``difference`` (0 to 1), ``length`` (letters) and ``ahead`` (the score of A less that of B)
    are what cards can be ordered by."""

    id: str
    sets: list[str]
    a: Side
    b: Side
    picture: Thumbnail | Missing | None
    difference: float
    length: int
    ahead: float


def comparison_content(first: Folder, second: Folder, samples: int, root: Path | None) -> dict[str, Any]:
    """Everything that ``compare.html`` asks for; "cards" makes them, with so many letters of a text at most.

    Raises:
        UsageError: the two have no image in common.
        Damaged, OutputError: a folder can't be read.
    """
    a, b = Job(first), Job(second)
    scores = [Scores(folder.out) for folder in (first, second)]
    keys = {}
    for letter, job, of in (("a", a, scores[0]), ("b", b, scores[1])):
        keys[letter], keys[f"failed {letter}"] = Keys(), Keys()
        for offset, row in with_scores(job.folder.captions(), of):
            job.tally.add(row)
            keys[letter].add(offset, row)
        for offset, row in job.folder.failures():
            keys[f"failed {letter}"].add(offset, row)
            job.errors[row["error"]] += 1
    pairs = Pairs(first, second, keys, scores, samples)
    if not (pairs.both or pairs.failed_a or pairs.failed_b):
        raise UsageError(f"{first.out} and {second.out} have no image in common", "give two jobs of the same images")
    found = pairs.shown()
    pictures = pictures_of([pair.a for pair, _ in found], first, root)
    scored = [of.rows([pair[side]["id"] for pair, _ in found]) for side, of in enumerate(scores)]
    return {
        "one_job": first.out.resolve() == second.out.resolve(),
        "a": a,
        "b": b,
        "pairs": pairs,
        "figures": [(label, value(a), value(b)) for label, value in _FIGURES],
        "scores": score_histogram({"a": a.tally.scores, "b": b.tally.scores}),
        "score_figures": [(label, *map(value, (a.tally.scores, b.tally.scores))) for label, value in _SCORE_FIGURES],
        "scorers": [list(of.scorers) for of in scores],
        "settings": _differing(a, b),
        "histogram": charts.histogram({"a": a.tally.words, "b": b.tally.words}, "words"),
        "alike": charts.histogram({"a": pairs.alike}, "% of the words"),
        "openings": _side_by_side(_openings(a), _openings(b), a.captioned, b.captioned),
        "words": _telling(a, b),
        "flags": _side_by_side(a.tally.flags, b.tally.flags, a.captioned, b.captioned),
        "errors": _side_by_side(a.errors, b.errors, a.captioned + a.failed, b.captioned + b.failed),
        "total": len(found),
        "cards": lambda letters: [
            _shown(pair, sets, pictures.get(pair.a["id"]), scored, letters) for pair, sets in found
        ],
        "sets": sizes_of_sets((sets, False) for _, sets in found),
    }  # fmt: skip


def _share(count: int, of: int) -> str:
    return f"{count:,} ({percent(count / of)})" if of and count else f"{count:,}"


_FIGURES = (
    ("captioned", lambda job: f"{job.captioned:,}"),
    ("failed", lambda job: _share(job.failed, job.captioned + job.failed)),
    ("flagged", lambda job: _share(job.tally.flagged, job.captioned)),
    ("ended by the token limit", lambda job: _share(job.tally.cut, job.captioned)),
    ("images a second", lambda job: number(job.rate) if job.rate else "–"),
    ("time at work", lambda job: duration(job.seconds) if job.seconds else "–"),
    ("words a caption, median", lambda job: f"{(job.tally.words.quantiles([0.5]) or [0])[0]:,}"),
    ("tokens a caption, mean", lambda job: number(job.tally.tokens.mean)),
    ("different captions", lambda job: _share(job.tally.texts.different, job.captioned)),
    ("different words", lambda job: ("" if job.tally.vocabulary.complete else "> ") + f"{len(job.tally.vocabulary):,}"),
)


_SCORE_FIGURES = (
    ("captions with a score", lambda scored: f"{len(scored):,}"),
    ("mean", lambda scored: score(scored.mean) if len(scored) else "–"),
    ("standard deviation", lambda scored: score(scored.deviation) if len(scored) else "–"),
    ("median", lambda scored: score(scored.quantiles([0.5])[0]) if len(scored) else "–"),
)


def _differing(a: Job, b: Job) -> list[tuple[str, str, str]]:
    """Settings and versions in which the latest runs differ."""
    found = []
    for of in (lambda job: job.all_settings, lambda job: job.versions):
        first, second = of(a), of(b)
        for key in [*first, *(key for key in second if key not in first)]:
            if first.get(key) != second.get(key):
                found.append((key, first.get(key, "–"), second.get(key, "–")))
    return found[:_SETTINGS]


class Both(NamedTuple):
    """How many of each job something is true of: as a share of 1, and in words."""

    label: str
    a: float
    b: float
    said_a: str
    said_b: str


def _side_by_side(a: Mapping[str, int], b: Mapping[str, int], of_a: int, of_b: int) -> list[Both]:
    """The commonest first."""
    rows = [
        Both(
            key,
            a.get(key, 0) / (of_a or 1),
            b.get(key, 0) / (of_b or 1),
            *map(_share, (a.get(key, 0), b.get(key, 0)), (of_a, of_b)),
        )
        for key in {**a, **b}
    ]
    return sorted(rows, key=lambda row: -max(row.a, row.b))


def _openings(job: Job) -> dict[str, int]:
    return {text: count for text, count, _ in job.tally.openings(_OPENINGS)}


def _telling(a: Job, b: Job) -> list[tuple[str, float, float]]:
    """Words whose shares of the captions differ most, with these; of words that are common in one."""
    shares = [
        {word: count / (job.captioned or 1) for word, count in job.tally.vocabulary.most_common(_COMMON_WORDS)}
        for job in (a, b)
    ]
    words = [(word, *(share.get(word, 0.0) for share in shares)) for word in {**shares[0], **shares[1]}]
    words.sort(key=lambda row: (-abs(row[1] - row[2]), row[0]))
    return [row for row in words if abs(row[1] - row[2]) >= _TELLING_WORD][:_WORDS]


def _shown(
    pair: Pair, sets: list[str], picture: Thumbnail | Missing | None, scored: list[dict[str, Any]], letters: int
) -> PairShown:
    sides = [
        _side(row, other, pair.alike, of.get(row["id"]), letters)
        for row, other, of in ((pair.a, pair.b, scored[0]), (pair.b, pair.a, scored[1]))
    ]
    length = max(len(row.get("caption", "")) for row in pair[:2])
    return PairShown(name(pair.a["id"]), sets, *sides, picture, round(1 - pair.alike, 3), length, pair.ahead)


def _side(
    row: dict[str, Any], other: dict[str, Any], alike: float, scored: dict[str, Any] | None, letters: int
) -> Side:
    known = facts(row, scored, letters)
    if "caption" not in row:
        return Side([(clean(row["message"], letters), False)], True, [name(row["error"])], known, "")
    text, said = clean(row["caption"], letters), score(row[SCORE]) if SCORE in row else ""
    if not _TELLING <= alike < 1:
        return Side([(text, False)], False, row["flags"], known, said)
    return Side(_marked(text, other), False, row["flags"], known, said)


def _marked(text: str, other: dict[str, Any]) -> list[tuple[str, bool]]:
    """Its pieces, and whether the other caption lacks that word."""
    known = set(words_of(other["caption"]))
    pieces: list[tuple[str, bool]] = []
    for piece in _PIECE.findall(text):
        marked = any(word not in known for word in words_of(piece))
        if pieces and pieces[-1][1] == marked:
            pieces[-1] = pieces[-1][0] + piece, marked
        else:
            pieces.append((piece, marked))
    return pieces
