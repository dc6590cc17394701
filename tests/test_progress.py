"""The display: bars on terminals of several widths, lines elsewhere, and nothing where nobody listens."""

import array
import fcntl
import io
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager

import pytest

from caption import progress
from caption.progress import Progress, Snapshot, WorkerProgress
from caption.schedule import Rounds
from tests.runs import ROOT, environment

NAMES = [f"gpu{number}" for number in range(8)]


class Clock:
    """Stands in for the module `time` of the display."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal:
    """A pseudo terminal; `stream` writes to it, `text()` closes it and gives all that was written."""

    def __init__(self, columns, lines=24):
        self._reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, array.array("H", [lines, columns, 0, 0]))
        self.stream = open(writer, "w", encoding="utf-8")  # noqa: SIM115
        self._data = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def text(self):
        self.stream.close()
        self._thread.join()
        os.close(self._reader)
        return b"".join(self._data).decode()

    def _read(self):
        try:
            while data := os.read(self._reader, 1 << 16):
                self._data.append(data)
        except OSError:  # Linux: the other end is closed
            pass


def screen(text, columns):
    """The lines that a terminal of so many columns would show; it knows the controls that the display uses."""
    cells, row, column = {}, 0, 0
    for piece in re.findall(r"\x1b\[[A-Z]|.|\n", text, re.DOTALL):
        if piece == "\x1b[A":
            row -= 1
        elif piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
        elif piece.startswith("\x1b"):
            raise AssertionError(f"unknown control {piece!r}")
        else:
            if column == columns:
                row, column = row + 1, 0
            cells[row, column] = piece
            column += 1
    rows = range(max(row for row, _ in cells) + 1)
    return ["".join(cells.get((row, column), " ") for column in range(columns)).rstrip() for row in rows]


@contextmanager
def shown(columns, workers=NAMES):
    terminal = Terminal(columns, lines=len(workers) + 3)
    display = Progress(workers, terminal.stream)
    try:
        yield terminal, display
    finally:
        terminal.text() if not terminal.stream.closed else None


def snapshot(done, total=10_000_000, before=1_000_000, failed=1_234, stage="generating", names=NAMES, rounds=None):
    workers = [WorkerProgress(name, stage, done // 8, failed // 8) for name in names]
    return Snapshot(total, before, done, failed, workers, rounds)


def test_rounds_of_a_lockstep_run_are_shown_from_the_first_on(clock):
    stream = io.StringIO()
    display = Progress(["gpu0"], stream)
    for rounds in (None, Rounds(), Rounds(begun=12, over=11, last=0.44, mean=0.1, most=0.9, worst=3)):
        display.show(snapshot(9, rounds=rounds))
        clock.now += 60
    first, second, third = stream.getvalue().splitlines()
    assert "round" not in first + second
    assert "round 12, drift 0.4 s" in third


def test_the_banner_goes_to_standard_output_where_there_are_no_bars(capsys):
    Progress(["gpu0"], io.StringIO()).announce("gpu0 5 images")
    assert capsys.readouterr().out == "gpu0 5 images\n"


def test_the_banner_stands_above_the_bars(capsys):
    terminal = Terminal(80)
    display = Progress(["gpu0"], terminal.stream)
    display.announce("gpu0 5 images")
    display.close()
    assert "gpu0 5 images" in terminal.text()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_bars_have_all_figures_at_each_width_and_one_line_a_worker(columns, clock):
    with shown(columns) as (terminal, display):
        for step in range(11):
            display.show(snapshot(done=100_000 * step))
            clock.now += 10
        total, *workers = screen(terminal.text(), columns)
    assert "2,001,234/10,000,000, 10,000/s, 1,234 failed, 13:19 left" in total
    assert ("20% |" in total) == (columns > 60)
    assert len(workers) == 8
    for name, line in zip(NAMES, workers):
        assert line.startswith(f"{name}   ▮▮▮▮▮▮▮▮▮▮ 125,000 done, 154 failed, generating")


@pytest.mark.parametrize("columns", [20, 60, 80, 200, 0])
def test_a_line_that_is_too_long_is_cut_and_not_wrapped(columns, clock):
    names = ["a worker with quite a long name, and more than anybody would give it"] * 2
    with shown(columns, names) as (terminal, display):
        display.show(snapshot(0, names=names))
        clock.now += 10
        display.show(snapshot(1_000_000, names=names), last=True)
        assert len(screen(terminal.text(), columns or 80)) == 3


def test_a_size_that_is_not_known_yet_is_a_question_mark(clock):
    with shown(80) as (terminal, display):
        display.show(snapshot(0, total=None))
        clock.now += 1
        display.show(snapshot(50, total=None, before=0, failed=0))
        line = screen(terminal.text(), 80)[0]
    assert "50/?" in line and "left" not in line


def test_bars_are_drawn_at_most_five_times_a_second(clock):
    with shown(80) as (terminal, display):
        for step in range(10_000):
            display.show(snapshot(done=step, failed=0))
            clock.now += 0.001
        text = terminal.text()
    assert 45 <= len(set(re.findall(r"([\d,]+)/10,000,000", text))) <= 51
    assert len(text) < 51 * 9 * 90


def test_the_last_figures_are_drawn_in_any_case_and_stay_without_a_time_left(clock):
    with shown(80) as (terminal, display):
        display.show(snapshot(0, failed=0))
        clock.now += 0.1
        display.show(snapshot(777, failed=0))
        display.show(snapshot(888, failed=0), last=True)
        display.close()
        text = terminal.text()
    first, *rest = screen(text, 80)
    assert "1,000,777" not in text
    assert "1,000,888/10,000,000" in first and "left" not in first
    assert not any(rest), "the lines of the workers are wiped"


def test_a_sentence_stands_above_the_bars(clock):
    with shown(80) as (terminal, display):
        display.show(snapshot(0))
        display.say("gpu3 is given up")
        lines = screen(terminal.text(), 80)
    assert lines[0] == "gpu3 is given up" and lines[1].startswith("total") and len(lines) == 10


def test_plain_lines_every_five_seconds_and_a_last_one_where_is_no_terminal(clock):
    stream = io.StringIO()
    display = Progress(NAMES[:2], stream)
    for step in range(101):
        display.show(snapshot(done=step * 1000, names=NAMES[:2]))
        clock.now += 0.1
    display.say("gpu1 is given up")
    display.show(snapshot(done=150_000, names=NAMES[:2]), last=True)
    display.close()
    first, second, third, said, last = stream.getvalue().splitlines()
    assert first == "1,001,234/10,000,000 images, 0.00/s, 1,234 failed (gpu0 generating, gpu1 generating)"
    assert second.startswith("1,051,234/10,000,000 images, 10,000/s, 1,234 failed, 14:54 left (gpu0")
    assert third.startswith("1,101,234/10,000,000 images, ")
    assert said == "gpu1 is given up"
    assert last.startswith("1,151,234/10,000,000 images, 14,851/s, 1,234 failed (gpu0")


def test_a_last_line_without_workers():
    stream = io.StringIO()
    Progress([], stream).show(Snapshot(3, 0, 2, 1, []), last=True)
    assert stream.getvalue() == "3/3 images, 0.00/s, 1 failed\n"


class Broken(io.StringIO):
    """A stream whose reader went away after some writes."""

    def __init__(self, terminal, error, good=0):
        super().__init__()
        self._terminal, self._error, self.left = terminal, error, good

    def isatty(self):
        return self._terminal

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self._error
        return super().write(text)


@pytest.mark.parametrize("good", [0, 1, 5, 20])
@pytest.mark.parametrize("error", [OSError(5, "I/O"), BrokenPipeError(), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_stream_that_raises_is_forgotten(terminal, error, good, clock):
    stream = Broken(terminal, error, good)
    display = Progress(NAMES, stream)
    for step in range(30):
        display.show(snapshot(step))
        display.say("still here")
        clock.now += 6
    assert stream.left == -1, "it was asked again"
    display.show(snapshot(100), last=True)
    display.close()
    assert stream.left == -1


def test_a_stream_that_is_closed_is_forgotten():
    stream = io.StringIO()
    stream.close()
    display = Progress(NAMES, stream)
    display.say("nobody hears it")
    display.show(snapshot(1), last=True)
    display.close()


def test_without_a_stream_it_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    display = Progress(NAMES)
    display.show(snapshot(1))
    display.say("nobody hears it")
    display.show(snapshot(1), last=True)
    display.close()
    assert capsys.readouterr().out == ""


def test_a_closed_stderr_is_silent_in_a_process():
    code = (
        "from caption.progress import *; p = Progress(['a']); p.say('x'); p.show(Snapshot(1, 0, 1, 0, [])); p.close()"
    )
    line = f'"{sys.executable}" -c "{code}" 2>&-'
    done = subprocess.run(["sh", "-c", line], env=environment(), cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
