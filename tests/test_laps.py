"""Laps: parts that add up to the whole; and those of a run until its first caption."""

import json
import subprocess
import time

from caption.laps import Laps, process_begin
from tests.runs import ROOT, command, empty_pictures, environment


def test_parts_follow_each_other_and_add_up():
    laps = Laps(100.0)
    laps.end("one", 103.0)
    laps.add({"two": 1.5, "three": 0.5})
    laps.end("one", 106.0)
    laps.end("none", 105.0)  # another process's clock may have run ahead
    assert laps.seconds == {"one": 4.0, "two": 1.5, "three": 0.5, "none": 0.0}
    assert laps.last == 106.0


def test_the_process_begins_before_its_first_line():
    assert 0 <= time.monotonic() - process_begin() < 3600


def test_a_run_says_where_the_time_went_until_its_first_caption(tmp_path):
    empty_pictures(tmp_path / "in", 20)
    begin = time.monotonic()
    subprocess.run(command(tmp_path / "in", "--output", tmp_path / "out", "--model", "null"), cwd=ROOT,
                   env=environment(), check=True, capture_output=True)  # fmt: skip
    wall = time.monotonic() - begin
    totals = json.loads((tmp_path / "out" / "run.json").read_text())["runs"][0]["totals"]
    parts = totals["until_first_caption"]
    assert list(parts) == [
        "interpreter", "imports", "finding the model", "input", "worker's process", "loaders", "libraries",
        "turn to load", "model", "check", "warm-up", "other workers", "first pictures", "first caption",
    ]  # fmt: skip
    assert all(seconds >= 0 for seconds in parts.values())
    assert totals["first_caption"] < sum(parts.values()) < wall
