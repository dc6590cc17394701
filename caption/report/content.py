"""Content: what stands on the page of one output folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from caption.choose.scores import Scores
from caption.guard.trim import strip_preamble
from caption.report import charts
from caption.report.cards import pictures_of, shown
from caption.report.charts import Chart, Tick
from caption.report.counters import Spread
from caption.report.figures import duration, number, percent
from caption.report.folder import Folder
from caption.report.gallery import Gallery
from caption.report.job import Job
from caption.report.scored import score_histogram, with_scores
from caption.report.speed import PARTS, advise
from caption.report.timeline import Bin

_OPENINGS, _WORDS, _REPEATED, _MESSAGES = 8, 30, 6, 3  # lines of each list
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
_RUNS = 50


def report_content(folder: Folder, samples: int, root: Path | None) -> dict[str, Any]:
    """Everything that ``report.html`` asks for; "cards" makes them, with so many letters of a text at most.

    Args:
        samples: how many captions are drawn at random.
        root: where the pictures lie, if not where the job's input says.

    Raises:
        Damaged, OutputError: the folder can't be read.
    """
    job, gallery, scores = Job(folder), Gallery(samples), Scores(folder.out)
    for _, row in with_scores(folder.captions(), scores):
        job.tally.add(row)
        gallery.add(row)
    for _, row in folder.failures():
        gallery.add_failure(row)
        job.errors[row["error"]] += 1
    repeated = folder.repeated(job.tally.texts, _REPEATED)
    cards = gallery.cards(repeated)
    pictures = pictures_of([card.row for card in cards], folder, root)
    scored = scores.rows([card.row["id"] for card in cards])
    return {
        "job": job,
        "tally": job.tally,
        "speed": speed(job),
        "lengths": length_table({"words": job.tally.words, "letters": job.tally.letters, "tokens": job.tally.tokens}),
        "histogram": charts.histogram({"a": job.tally.words}, "words"),
        "scores": score_histogram({"a": job.tally.scores}),
        "scorers": [scorer for scorer, _ in scores.scorers.most_common()],
        "score_shares": job.tally.scores.quantiles((0, *_SHARES, 1)) if len(job.tally.scores) else [],
        "openings": job.tally.openings(_OPENINGS),
        "stripped": _stripped(job, gallery),
        "words": job.tally.telling_words(_WORDS),
        "repeated": repeated,
        "errors": [
            (error, count, gallery.messages[error].most_common(_MESSAGES)) for error, count in job.errors.most_common()
        ],
        "total": len(cards),
        "cards": lambda letters: [
            shown(card, pictures.get(card.row["id"]), scored.get(card.row["id"]), letters) for card in cards
        ],
        "sets": sizes_of_sets((card.sets, card.failed) for card in cards),
        "runs": job.runs[-_RUNS:],
    }


def speed(job: Job) -> dict[str, Any]:
    """Throughput and load over time, where the time went, and the advice."""
    timeline = job.timeline
    bins = _without_sliver(timeline.bins, timeline.width)
    ends = [min((place + 1) * timeline.width, timeline.seconds) for place in range(len(bins))]
    if ends:
        ends[-1] = timeline.seconds
    return {
        "throughput": _throughput(bins, ends, job) if timeline.seconds else None,
        "load": _load(bins, ends, job) if timeline.seconds else None,
        "has_gpus": bool(timeline.workers),
        "parts": PARTS,
        "shares": job.shares,
        "workers": job.workers,
        "gpus": timeline.workers,
        "advice": advise(
            job.shares, job.seconds, job.folder.runs, job.cpu, job.memory, job.tally.tokens.mean
        ),
    }  # fmt: skip


def _without_sliver(bins: Sequence[Bin], width: float) -> list[Bin]:
    """A last bin of which hardly anything was measured would show chance."""
    bins = list(bins)
    if len(bins) > 3 and bins[-1].seconds < width / 2:
        joined = Bin()
        joined.join(bins[-2])
        joined.join(bins[-1])
        bins[-2:] = [joined]
    return bins


def _throughput(bins: Sequence[Bin], ends: Sequence[float], job: Job) -> Chart:
    rates = [one.images / one.seconds if one.seconds else None for one in bins]
    top, ticks = charts.top_and_ticks(max((rate for rate in rates if rate), default=0))
    line = charts.line("a", rates, _percents(ends), top)
    points = _points(ends, [f"{number(rate)} images/s" if rate is not None else "nothing measured" for rate in rates])
    y = [Tick(100 * at / top, number(at)) for at in ticks]
    return Chart(charts.time_ticks(ends[-1]), y, points, [line], marks=_marks(job))


def _load(bins: Sequence[Bin], ends: Sequence[float], job: Job) -> Chart:
    cpu = _carried([one.cpu / one.readings if one.readings else None for one in bins])
    ram = _carried([100 * one.ram / one.readings if one.readings else None for one in bins])
    known = {"CPU": ("b", cpu), "RAM": ("c", ram)}
    if job.timeline.workers:
        known = {"GPU": ("a", _carried([_gpu(one) for one in bins]))} | known
    lines = [charts.line(kind, values, _percents(ends), 100) for kind, values in known.values()]
    words = [
        " · ".join(f"{name} {values[place]:.0f} %" for name, (_, values) in known.items() if values[place] is not None)
        for place in range(len(bins))
    ]
    y = [Tick(at, f"{at} %") for at in (0, 25, 50, 75, 100)]
    return Chart(charts.time_ticks(ends[-1]), y, _points(ends, words), lines, marks=_marks(job))


def _gpu(one: Bin) -> float | None:
    """Mean use of all GPUs."""
    means = [total / count for total, count in one.gpus.values() if count]
    return sum(means) / len(means) if means else None


def _carried(values: Sequence[float | None]) -> list[float | None]:
    """Between two readings the earlier one holds."""
    carried, last = [], None
    for value in values:
        last = last if value is None else min(value, 100.0)
        carried.append(last)
    return carried


def _percents(ends: Sequence[float]) -> list[float]:
    return [100 * end / ends[-1] for end in ends]


def _points(ends: Sequence[float], words: Sequence[str]) -> list[tuple[float, str]]:
    begins = [0.0, *ends[:-1]]
    return [
        (round(50 * (begin + end) / ends[-1], 2), f"{duration(begin)}: {said}")
        for begin, end, said in zip(begins, ends, words)
    ]


def _marks(job: Job) -> list[float]:
    total = job.timeline.seconds
    return [100 * run.start / total for run in job.timeline.runs.values() if run.start][:_RUNS]


def length_table(spreads: dict[str, Spread]) -> list[tuple[str, list[int], float]]:
    """Of each unit the quantiles 5, 25, 50, 75 and 95 percent, and the mean."""
    return [(unit, spread.quantiles(_SHARES), spread.mean) for unit, spread in spreads.items() if spread.counts]


def _stripped(job: Job, gallery: Gallery) -> str:
    """The share of captions that --strip-preamble would change, where it is worth saying and was not set."""
    texts = [row["caption"] for row in gallery.random]
    if not texts or job.folder.fingerprint.get("strip_preamble"):
        return ""
    share = sum(strip_preamble(text) != text for text in texts) / len(texts)
    return percent(share) if share >= 0.1 else ""


def sizes_of_sets(cards: Iterable[tuple[Sequence[str], bool]]) -> list[tuple[str, int, bool]]:
    """Of all sets, in the order of their first card: name, size, whether they are of failed images.

    Args:
        cards: of each its sets, and whether it has failed.
    """
    found: dict[str, list] = {}
    for sets, failed in cards:
        for name in sets:
            entry = found.setdefault(name, [0, failed])
            entry[0] += 1
    return [(name, count, failed) for name, (count, failed) in found.items()]
