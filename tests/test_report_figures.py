"""Report figures: counters of bounded memory against plain ones, time lines of broken statistics, and the advice."""

import random
from collections import Counter

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caption.report.charts import histogram, line, time_ticks, top_and_ticks
from caption.report.counters import Bounded, Sample, Spread, Top
from caption.report.figures import duration, number, percent
from caption.report.scored import Scored, score_histogram
from caption.report.speed import PARTS, advise, where_time_went
from caption.report.timeline import Timeline
from caption.report.words import opening, words_of


def test_what_is_common_is_counted_though_most_is_forgotten():
    counter, dice = Bounded(100), random.Random(1)
    texts = [f"rare {place}" for place in range(20_000)] + ["often"] * 2000 + ["twice as often"] * 4000
    dice.shuffle(texts)
    for text in texts:
        counter.update([text])
    (first, most), (second, less) = counter.most_common(2)
    assert (first, second) == ("twice as often", "often") and not counter.complete and len(counter) <= 100
    assert 3500 < most <= 4000 and 1500 < less <= 2000


def test_each_row_has_the_same_chance_to_be_drawn():
    drawn = Counter()
    for seed in range(2000):
        sample = Sample(5, str(seed))
        for place in range(40):
            sample.add(place)
        assert len(set(sample.rows)) == 5
        drawn.update(sample.rows)
    assert len(drawn) == 40 and min(drawn.values()) > 180 and max(drawn.values()) < 330  # 250 each, deviation 15


@given(st.lists(st.integers(0, 50)), st.integers(1, 9))
def test_the_largest_and_the_quantiles_are_those_of_all(numbers, size):
    top, spread = Top(size), Spread()
    for place, value in enumerate(numbers):
        top.add(value, (value, place))
        spread.add(value)
    assert top.rows == sorted(((v, p) for p, v in enumerate(numbers)), key=lambda row: (-row[0], row[1]))[:size]
    if numbers:
        shares = (0.05, 0.5, 0.95)
        assert spread.quantiles(shares) == list(np.quantile(numbers, shares, method="inverted_cdf"))
        assert spread.mean == pytest.approx(np.mean(numbers))


@pytest.mark.parametrize(
    "values, first, last",
    [
        ([0.3, 0.31, 0.2999, 0.35], "0.298 to 0.3: 25 %", "0.35 to 0.352: 25 %"),
        ([-2, 3, 3, 10], "-2: 25 %", "10: 25 %"),
        ([0.5, 0.5], "0 to 1: 100 %", "1 to 2: 0 %"),
        ([-0.1, 1000.5], "-50 to 0: 50 %", "1000 to 1050: 50 %"),
        ([1e-9, 2e-9], "1e-09 to 1.05e-09: 50 %", "2e-09 to 2.05e-09: 50 %"),
    ],
)
def test_a_histogram_of_scores_has_a_bar_for_each_and_says_from_where_to_where(values, first, last):
    scored = Scored()
    for value in values:
        scored.add(value)
    points = [said for _, said in score_histogram({"a": scored}).points]
    assert (points[0], points[-1]) == (first, last) and 2 <= len(points) <= 40


@pytest.mark.parametrize(
    "text, words",
    [
        ("It's a 'well-known' dog -- 12% of_it.", ["it's", "a", "well-known", "dog", "12", "of", "it"]),
        ("Où est l’été ?", ["où", "est", "l’été"]),
        ("一只猫。cat", ["一", "只", "猫", "cat"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("", []),
    ],
)
def test_words_of_any_script(text, words):
    assert words_of(text) == words


def test_openings_are_the_first_words_or_signs():
    assert opening("The image, shows.", 2) == "The image"
    assert opening("一只猫坐在沙发上面对着镜头看着我们的眼睛和鼻子", 2) == "一只猫"
    assert opening(" \n", 2) == "" and len(opening("x" * 9999, 2)) < 100


# ---- time ----


def statistics(path, rows):
    path.write_bytes(b"".join(one if isinstance(one, bytes) else orjson.dumps(one) + b"\n" for one in rows))
    return path


def test_a_week_is_a_few_hundred_bins_that_hold_all_images(tmp_path):
    rows = [{"time": 1000 + 10 * place, "images": 7 * place, "cpu_percent": 50} for place in range(60_480)]
    timeline = Timeline(statistics(tmp_path / "s", rows), [{"begin": "1970-01-01T00:16:40Z"}])
    assert len(timeline.bins) <= 240 and timeline.seconds == 604_790
    assert sum(one.images for one in timeline.bins) == pytest.approx(7 * 60_479)
    assert sum(one.seconds for one in timeline.bins) == pytest.approx(604_790)


@pytest.mark.parametrize("numbers", [({}, {}), ({"run": 1}, {"run": 2})])
def test_the_time_between_two_runs_is_not_in_the_line(tmp_path, numbers):
    runs = [{"begin": "1970-01-01T00:00:00Z"}, {"begin": "1970-01-02T00:00:00Z"}]
    first, second = numbers
    rows = [
        {"time": 10, "images": 5} | first,
        {"time": 20, "images": 9} | first,
        {"time": 86_430, "images": 3} | second,
    ]
    timeline = Timeline(statistics(tmp_path / "s", rows), runs)
    assert timeline.seconds == 50 and timeline.images == 12
    assert [(run.start, run.length, run.images) for run in timeline.runs.values()] == [(0, 20, 9), (20, 30, 3)]


def test_broken_lines_missing_keys_and_clocks_that_jump_cost_no_report(tmp_path):
    rows = [b"{torn", b"\n", {"time": 5}, {"images": 1}, {"time": "x", "images": 1}, b"[]\n", {"worker": "cuda0"},
            {"time": 5, "images": 10}, {"time": 2, "images": 12}, {"time": 4e9, "images": 13},
            {"time": 4e9, "worker": "cuda0", "gpu_percent": 50}]  # fmt: skip
    timeline = Timeline(statistics(tmp_path / "s", rows), [])
    assert len(timeline.bins) <= 240 and timeline.images == 13
    assert timeline.workers["cuda0"].use == 50
    assert Timeline(tmp_path / "nowhere", []).seconds == 0


def test_where_the_time_went_is_told_of_a_run_that_died_too(tmp_path):
    rows = [{"time": 10, "images": 5},
            {"time": 10, "worker": "cuda0", "seconds": {"generating": 6.0, "preprocessing": 3.0}}]  # fmt: skip
    ended = {"totals": {"total_seconds": 30.0, "idle": {"cuda0": dict.fromkeys(PARTS, 0.0) | {"computing": 1.0}}}}
    runs = [{"begin": "1970-01-01T00:00:00Z"}, {"begin": "1990-01-01T00:00:00Z"} | ended]
    shares = where_time_went(runs, Timeline(statistics(tmp_path / "s", rows), runs))["cuda0"]
    assert shares == pytest.approx(dict.fromkeys(PARTS, 0.0) | {"computing": 0.9, "pictures": 0.075, "start": 0.025})


@pytest.mark.parametrize(
    "shares, run, cpu, memory, headline, gain",
    [
        ({"computing": 0.6, "slots": 0.2, "pictures": 0.2}, {}, 30, None, "Raise --loaders (now 2 a worker)", 1.7),
        ({"computing": 0.6, "pictures": 0.4}, {}, 95, None, "Smaller pictures, or more cores", 1.7),
        ({"computing": 0.7, "host": 0.3}, {}, 30, None, "A machine with faster cores", 1.4),
        ({"computing": 0.7, "host": 0.3}, {}, 95, None, "Lower --loaders (now 2 a worker)", 1.4),
        ({"computing": 0.5, "work": 0.5}, {"schedule": "lockstep"}, 30, None, "Use --schedule dynamic", 2.0),
        ({"computing": 0.5, "start": 0.5}, {}, 30, None, "Give one run more images", 2.0),
        ({"computing": 1.0}, {"batch_size": 4}, 30, 0.3, "Leave out --batch-size", None),
        ({"computing": 1.0}, {"num_beams": 4}, 30, 0.9, "Use --num-beams 1", None),
        ({"computing": 1.0}, {}, 30, 0.9, "More GPUs, or shorter captions", None),
    ],
)
def test_the_advice_is_the_largest_thing_to_gain(shares, run, cpu, memory, headline, gain):
    runs = [{"settings": run, "seats": [{"device": "cuda", "loaders": 2}]}]
    advice = advise(dict.fromkeys(PARTS, 0.0) | shares, 100.0, runs, cpu, memory, 80.0)
    assert advice.headline == headline and (advice.gain and round(advice.gain, 1)) == gain


def test_of_a_short_run_or_none_nothing_is_said():
    assert advise({}, 0.0, [], None, None, 0.0).headline == "Nothing to say about speed"
    assert advise(dict.fromkeys(PARTS, 0.1), 5.0, [], None, None, 0.0).headline == "Too short to say"


# ---- charts and words ----


@given(st.dictionaries(st.integers(0, 3000), st.integers(1, 9), min_size=1, max_size=60))
def test_a_histogram_has_few_bars_and_holds_all(counts):
    spread = Spread()
    spread.counts.update(counts)
    chart = histogram({"a": spread}, "words")
    assert 1 <= len(chart.points) <= 60
    assert chart.bars[0][1].count("M") <= len(chart.points)
    assert all(0 <= tick.at <= 100.001 for tick in [*chart.x, *chart.y])


@given(st.floats(0.01, 1e7))
def test_axes_end_above_the_largest_and_have_few_ticks(largest):
    top, ticks = top_and_ticks(largest)
    assert top >= largest * 0.999 and 2 <= len(ticks) <= 6 and len(time_ticks(largest)) <= 7


def test_a_line_has_a_gap_where_nothing_was_measured():
    drawn = line("a", [1, 2, None, 1], [25, 50, 75, 100], 2)
    assert drawn.path == "M12.50,50.00L37.50,0.00M75.00,50.00L100.00,50.00"
    assert drawn.area.count("Z") == 2


def test_figures_in_words():
    assert [percent(share) for share in (0, 0.0002, 0.003, 0.09, 0.714, 0.9991, 1)] == [
        "0 %", "<0.1 %", "0.3 %", "9.0 %", "71 %", "99.9 %", "100 %",
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (0, 59.4, 60, 90, 3599, 5400, 86400 * 7 + 7200)] == [
        "0 s", "59 s", "1 min", "1 min 30", "1 h", "1 h 30", "7 d 2 h",
    ]  # fmt: skip
    assert [number(value) for value in (0, 0.25, 1.44, 12.4, 3400, 1_250_000)] == [
        "0", "0.25", "1.4", "12", "3,400", "1.25 M",
    ]  # fmt: skip


def test_a_bin_that_was_measured_alone_is_drawn_across_all_of_it():
    drawn = line("a", [None, 40.0, None, 10.0, 20.0], [20, 40, 60, 80, 100], 100)
    assert drawn.path == "M20.00,60.00L40.00,60.00M70.00,90.00L90.00,80.00"
    assert drawn.area.startswith("M20.00,100L20.00,60.00L40.00,60.00L40.00,100Z")
    assert line("a", [50.0], [100], 100).path == "M0.00,50.00L100.00,50.00"
