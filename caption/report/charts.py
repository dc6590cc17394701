"""Charts: ticks, bins and paths, in percent of the plot, so that a page can draw them at any width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from caption.report.counters import Spread
from caption.report.figures import duration, percent

_STEPS = (1, 2, 2.5, 5, 10)
_MOST_BARS = 40
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)  # seconds
_DAY = 86400


class Tick(NamedTuple):
    """Attributes:
    at: percent of the axis.
    """

    at: float
    label: str


class Series(NamedTuple):
    """A line.

    Attributes:
        kind: its class in the style sheet.
        path, area: of an SVG whose plot is 100 by 100, with y down.
    """

    kind: str
    path: str
    area: str


class Chart(NamedTuple):
    """Attributes:
    series: lines, or none in a chart of bars.
    bars: paths, by their class in the style sheet.
    points: (percent of x, words) for the one who points there.
    marks: percent of x where a new run begins.
    """

    x: list[Tick]
    y: list[Tick]
    points: list[tuple[float, str]]
    series: list[Series] = ()
    bars: list[tuple[str, str]] = ()
    marks: list[float] = ()


def top_and_ticks(largest: float) -> tuple[float, list[float]]:
    """The end of an axis from 0, and three to five round numbers on it."""
    if largest <= 0:
        return 1.0, [0.0, 1.0]
    raw = largest / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in _STEPS if factor * power >= raw * 0.999)
    count = math.ceil(largest / step - 1e-9)
    return count * step, [number * step for number in range(count + 1)]


def time_ticks(seconds: float) -> list[Tick]:
    """About five round times on an axis of so many seconds."""
    if not seconds:
        return []
    wanted = seconds / 5
    step = next((step for step in _TIMES if step >= wanted), math.ceil(wanted / _DAY) * _DAY)
    return [Tick(100 * at / seconds, duration(at) if at else "0") for at in range(0, int(seconds) + 1, step)]


def line(kind: str, values: Sequence[float | None], ends: Sequence[float], top: float) -> Series:
    """A line through the middles of bins; across a bin that stands by itself.

    Args:
        values: of each bin, or None where nothing was measured.
        ends: of the bins, in percent of x; the first begins at 0.
        top: the value at the upper end.
    """
    begins = [0.0, *ends[:-1]]
    bins: list[list[tuple[float, float, float]]] = [[]]
    for value, begin, end in zip(values, begins, ends):
        if value is not None:
            bins[-1].append((begin, end, 100 - 100 * value / top))
        elif bins[-1]:
            bins.append([])
    pieces = [_through(piece) for piece in bins if piece]
    lines = ["L".join(f"{x:.2f},{y:.2f}" for x, y in piece) for piece in pieces]
    areas = [f"M{piece[0][0]:.2f},100L{line}L{piece[-1][0]:.2f},100Z" for piece, line in zip(pieces, lines)]
    return Series(kind, "".join(f"M{line}" for line in lines), "".join(areas))


def _through(bins: Sequence[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """bins: begin, end, y."""
    if len(bins) == 1:
        [(begin, end, y)] = bins
        return [(begin, y), (end, y)]
    return [((begin + end) / 2, y) for begin, end, y in bins]


def histogram(spreads: dict[str, Spread], unit: str, rest: float = 0.005, step: float = 0.0) -> Chart | None:
    """Bars by size, one row of them a spread. None: no numbers.

    Args:
        spreads: by their class in the style sheet.
        unit: of the numbers, for words: "words".
        rest: the share of the largest, which stand in the last bar together.
        step: of values that are no whole numbers: what a 1 in the spreads stands for.
    """
    filled = [spread for spread in spreads.values() if spread.counts]
    if not filled:
        return None
    low = min(min(spread.counts) for spread in filled)
    high = max(max(spread.quantiles([1 - rest])[0] for spread in filled), low + 1)
    width = max(1, math.ceil(top_and_ticks((high - low + 1) / _MOST_BARS * 4)[1][1]))
    first = low // width * width
    count = (high - first) // width + 1
    more = any(max(spread.counts) >= first + count * width for spread in filled)
    shares = {name: _binned(spread, first, width, count) for name, spread in spreads.items()}
    top, ticks = top_and_ticks(100 * max(max(values) for values in shares.values()))
    bars = [
        (name, "".join(_bar(place, index, len(shares), count, value / top) for place, value in enumerate(values)))
        for index, (name, values) in enumerate(shares.items())
    ]
    points = []
    for place in range(count):
        begin, end = first + place * width, first + (place + 1) * width - 1
        last = more and place == count - 1
        span = f"{begin:,} or more" if last else f"{begin:,}" if begin == end else f"{begin:,}–{end:,}"
        span = f"{_value(begin, step)} to {_value(end + 1, step)}" if step else span
        said = " · ".join(percent(values[place]) for values in shares.values())
        points.append((100 * (place + 0.5) / count, f"{span}{unit and f' {unit}'}: {said}"))
    return Chart(
        _length_ticks(first, width, count, step), [Tick(100 * at / top, f"{at:g} %") for at in ticks], points, bars=bars
    )


def _bar(place: int, index: int, of: int, count: int, height: float) -> str:
    """The path of a bar: ``index`` of ``of`` in the place of ``count``; ``height`` in percent of a percent."""
    if not height:
        return ""
    gap = 12 / count
    width = (100 / count - gap) / of
    left = 100 * place / count + gap / 2 + index * width
    return f"M{left:.3f},100V{100 - 100 * height * 100:.2f}H{left + width:.3f}V100Z"


def _binned(spread: Spread, first: int, width: int, count: int) -> list[float]:
    values, total = [0] * count, spread.total or 1
    for value, times in spread.counts.items():
        values[min((value - first) // width, count - 1)] += times
    return [value / total for value in values]


def _value(steps: int, step: float) -> str:
    return f"{steps * step:.4g}"


def _length_ticks(first: int, width: int, count: int, step: float) -> list[Tick]:
    """Below bars of one number their middle, below wider ones their begin."""
    end = first + width * count
    apart = max(1, math.ceil(top_and_ticks(end - first)[1][1]))
    begin = math.ceil(first / apart) * apart
    offset = 0.5 if width == 1 and not step else 0
    return [
        Tick(100 * (at + offset - first) / (end - first), _value(at, step) if step else f"{at:,}")
        for at in range(begin, end, apart)
    ]
