"""The display: bars on terminals of several widths, lines elsewhere, and nothing where nobody listens."""

import array
import fcntl
import io
import os
import pty
import re
import termios
import threading
import unicodedata
from contextlib import contextmanager

import pytest

from caption import progress
from caption.monitor import GpuLoad, Load, MachineLoad, ProcessLoad
from caption.progress import Progress
from caption.schedule import Rounds
from caption.snapshot import Snapshot, WorkerSnapshot

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


def screen(text, columns, before=""):
    """The lines that a terminal of so many columns would show; it knows the controls that the display uses.

    before: what stood on it.
    """
    cells, row, column, wrap = {}, 0, 0, True
    for piece in re.findall(r"\x1b\[\??\d*[A-Za-z]|.|\n", before + text, re.DOTALL):
        if up := re.fullmatch(r"\x1b\[(\d+)A", piece):
            row = max(0, row - int(up[1]))
        elif piece in ("\x1b[K", "\x1b[J", "\x1b[2J"):
            begin = (-1, 0) if piece == "\x1b[2J" else (row, column)
            end = (row, columns) if piece == "\x1b[K" else (10**6, 0)
            cells = {place: cell for place, cell in cells.items() if not begin <= place <= end}
        elif piece == "\x1b[H":
            row = column = 0
        elif piece in ("\x1b[?7l", "\x1b[?7h"):
            wrap = piece.endswith("h")
        elif piece == "\r":
            column = 0
        elif piece == "\n":
            row, column = row + 1, 0
        elif piece.startswith("\x1b"):
            raise AssertionError(f"unknown control {piece!r}")
        else:
            if column >= columns:
                row, column = (row + 1, 0) if wrap else (row, columns - 1)
            wide = unicodedata.east_asian_width(piece) in "WF"
            cells[row, column] = piece
            if wide:
                cells[row, column + 1] = ""
            column += 1 + wide
    rows = range(max((row for row, _ in cells), default=-1) + 1)
    return ["".join(cells.get((row, column), " ") for column in range(columns)).rstrip() for row in rows]


@contextmanager
def shown(columns, lines=24):
    terminal = Terminal(columns, lines)
    display = Progress(terminal.stream)
    try:
        yield terminal, display
    finally:
        terminal.text() if not terminal.stream.closed else None


def snapshot(
    done, total=10_000_000, before=1_000_000, failed=1_234, stage="generating", names=NAMES, rate=10_000.0, rounds=None
):
    workers = [
        WorkerSnapshot(
            name, "ready", stage, done // 8, failed // 8, rate=rate / 8, gpus=(name,) if name.startswith("gpu") else ()
        )
        for name in names
    ]
    return Snapshot(
        total, before, done, failed, workers, flagged=567, seconds=done / 9000, rate=rate, pace=rate, rounds=rounds
    )


GPU = GpuLoad(use=98, used=61_200_000_000, total=141_000_000_000, celsius=67)
LOAD = Load(MachineLoad(50.0, 10**9, 10**10, 10**11), dict.fromkeys(NAMES, GPU))


def draw(columns, lines=24, **options):
    with shown(columns, lines) as (terminal, display):
        display.show(snapshot(1_000_000, **options), LOAD)
        return screen(terminal.text(), columns)


def test_at_200_columns_all_figures_are_shown():
    total, pace, *workers = draw(200)
    assert total.startswith("total  20 % |████████████████████ ") and "| 2,001,234/10,000,000, 13:19 left" in total
    assert pace == (
        "       10,000/s in the last minute, 9,011/s in the whole run, 1,000,000 done, 1,234 failed, 567 flagged"
    )
    assert len(workers) == 8
    for name, line in zip(NAMES, workers):
        assert line == (
            f"{name}    generating     1,250/s   98 %  61.2/141.0 GB  67 °C  125,000 done, 154 failed"
        )


def test_at_80_columns_the_bar_is_shorter_and_the_figures_of_the_gpu_stay():
    total, pace, *workers = draw(80)
    assert re.fullmatch(r"total  20 % \|█{5,}.? *\| 2,001,234/10,000,000, 13:19 left", total)
    assert pace == "10,000/s, 9,011/s in all, 1,000,000 done, 1,234 failed, 567 flagged"
    assert workers == [f"{name}    generating     1,250/s   98 %  61.2/141.0 GB  67 °C" for name in NAMES]


def test_at_40_columns_what_matters_most_stays():
    total, pace, *workers = draw(40)
    assert (total, pace) == ("2,001,234/10,000,000, 13:19 left", "10,000/s, 1,234 failed, 567 flagged")
    assert workers == [f"{name}    generating     1,250/s   98 %" for name in NAMES]


@pytest.mark.parametrize("columns", [1, 5, 20, 40, 60, 80, 200, 0])
@pytest.mark.parametrize("stage", ["generating", "a stage with a name that is far too long for any terminal"])
def test_no_line_is_longer_than_the_terminal_is_wide(columns, stage):
    lines = draw(columns, stage=stage)
    assert len(lines) == 10
    assert all(len(line) < (columns or 80) or columns == 1 for line in lines)


def test_a_terminal_with_fewer_rows_than_workers_shows_the_first_and_how_many_more():
    lines = draw(80, lines=8)
    assert len(lines) == 7
    assert lines[-2].startswith("gpu3") and lines[-1] == "and 4 more"


def test_a_cpu_worker_shows_its_process_and_no_gpu():
    load = Load(MachineLoad(50.0, 0, 1, 1, {"cpu0": ProcessLoad(187.0, 1_250_000_000)}))
    with shown(80) as (terminal, display):
        display.show(snapshot(10, names=["cpu0"]), load)
        line = screen(terminal.text(), 80)[2]
    assert line == "cpu0    generating     1,250/s  187 % CPU  1.2 GB  1 done, 154 failed"


def test_figures_that_a_driver_does_not_give_are_left_out():
    with shown(80) as (terminal, display):
        display.show(snapshot(10, names=["gpu0"]), Load(None, {"gpu0": GpuLoad(celsius=50)}))
        line = screen(terminal.text(), 80)[2]
    assert line == "gpu0    generating     1,250/s  50 °C  1 done, 154 failed"


def test_a_size_that_is_not_known_yet_is_a_question_mark():
    total = draw(80, total=None)[0]
    assert total == "total  2,001,234/?"


def test_a_terminal_that_gets_narrower_shows_each_line_once_and_the_latest_sentences(clock):
    with shown(200) as (terminal, display):
        display.say("猫の写真.jpg is broken")
        display.show(snapshot(1000), LOAD)
        fcntl.ioctl(terminal.stream.fileno(), termios.TIOCSWINSZ, array.array("H", [24, 60, 0, 0]))
        display.show(snapshot(2000), LOAD)
        text = terminal.text()
    begin = text.rindex("\x1b[2J")
    wrapped = "".join(f"{'x' * 60}\n" for _ in range(20))  # what the terminal made of the old lines
    first, *rest = screen(text[begin:], 60, before=wrapped + "\x1b[H")
    assert first == "猫の写真.jpg is broken"
    assert rest[0].startswith("total  10 % |") and len(rest) == 10 and not any("x" in line for line in rest)


def test_a_terminal_that_gets_wider_is_drawn_over(clock):
    with shown(60) as (terminal, display):
        display.show(snapshot(1000), LOAD)
        fcntl.ioctl(terminal.stream.fileno(), termios.TIOCSWINSZ, array.array("H", [24, 200, 0, 0]))
        display.show(snapshot(2000), LOAD)
        text = terminal.text()
    assert "\x1b[2J" not in text
    lines = screen(text, 200)
    assert len(lines) == 10 and "in the last minute" in lines[1]


def test_each_drawing_leaves_the_cursor_on_the_first_line(clock):
    with shown(80) as (terminal, display):
        for step in range(50):
            display.show(snapshot(step * 1000), LOAD)
        lines = screen(terminal.text() + "HERE", 80)
    assert lines[0].startswith("HERE") and len(lines) == 10


def test_the_last_figures_stay_without_a_time_left_and_the_workers_are_wiped():
    with shown(80) as (terminal, display):
        display.show(snapshot(777, failed=0), LOAD)
        display.show(Snapshot(1000, 100, 900, 0, rate=5.0), LOAD, last=True)
        display.close()
        lines = screen(terminal.text() + "AFTER", 80)
    assert lines[0].endswith("| 1,000/1,000") and "left" not in lines[0]
    assert lines[2] == "AFTER", "the cursor stands below"
    assert len(lines) == 3


def test_sentences_stand_above_the_bars_in_their_order():
    with shown(80) as (terminal, display):
        display.show(snapshot(0), LOAD)
        display.say("gpu3 is given up")
        display.say("so is gpu4")
        display.show(snapshot(0), LOAD)
        lines = screen(terminal.text(), 80)
    assert lines[:2] == ["gpu3 is given up", "so is gpu4"] and lines[2].startswith("total") and len(lines) == 12


def test_a_file_name_moves_no_cursor_and_sets_no_title():
    with shown(80) as (terminal, display):
        display.say("\x1b[2J\x1b]0;title\x07\x9b5A\r写真.jpg")
        assert terminal.text() == "\\x1b[2J\\x1b]0;title\\x07\\x9b5A\\x0d写真.jpg\r\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_rounds_of_a_lockstep_run_are_shown_from_the_first_on(terminal, clock):
    shows = []
    for rounds in (None, Rounds(), Rounds(begun=12, over=11, last=0.44, mean=0.1, most=0.9, worst=3)):
        one = Terminal(80) if terminal else None
        stream = one.stream if terminal else io.StringIO()
        Progress(stream).show(snapshot(9, rounds=rounds), LOAD)
        shows.append(one.text() if terminal else stream.getvalue())
    assert "round" not in shows[0] + shows[1]
    assert "round 12, drift 0.4 s" in shows[2]


def test_the_banner_goes_to_standard_output_where_there_are_no_bars(capsys):
    Progress(io.StringIO()).announce("gpu0 5 images")
    assert capsys.readouterr().out == "gpu0 5 images\n"


def test_the_banner_stands_above_the_bars(capsys):
    with shown(80) as (terminal, display):
        display.announce("gpu0 5 images")
        display.show(snapshot(0), LOAD)
        lines = screen(terminal.text(), 80)
    assert lines[0] == "gpu0 5 images" and lines[1].startswith("total")
    assert capsys.readouterr().out == ""


def test_plain_lines_from_time_to_time_and_a_last_one_where_is_no_terminal(clock):
    stream = io.StringIO()
    display = Progress(stream)
    for step in range(101):
        display.show(snapshot(done=step * 1000, names=NAMES[:2]), LOAD)
        clock.now += 0.1
    display.say("gpu1 is given up")
    display.show(Snapshot(200_000, 0, 199_000, 1000, rate=9.0), LOAD, last=True)
    display.close()
    text = stream.getvalue()
    assert "\x1b" not in text and "\r" not in text
    first, second, third, said, last = text.splitlines()
    figures = "generating 98 % 61.2/141.0 GB 67 °C"
    assert first.startswith("1,001,234/10,000,000 images, 10,000/s (0.00/s in all), 1,234 failed, 567 flagged, ")
    assert second.startswith("1,051,234/10,000,000 images, 10,000/s (9,222/s in all), 1,234 failed, 567 flagged, ")
    assert second.endswith(f", 14:54 left (gpu0 {figures}, gpu1 {figures})")
    assert third.startswith("1,101,234/10,000,000 images, ")
    assert said == "gpu1 is given up"
    assert last == "200,000/200,000 images, 9.00/s (0.00/s in all), 1,000 failed, 0 flagged"


def test_plain_lines_of_a_long_run_grow_apart_to_a_minute(clock):
    stream = io.StringIO()
    display = Progress(stream)
    for _ in range(4 * 3600):
        display.show(snapshot(1), LOAD)
        clock.now += 1
    lines = stream.getvalue().count("\n")
    assert 240 < lines < 330


@pytest.mark.parametrize("term", ["dumb"])
def test_a_dumb_terminal_gets_plain_lines(term, monkeypatch):
    monkeypatch.setenv("TERM", term)
    with shown(80) as (terminal, display):
        display.show(snapshot(1), LOAD)
        text = terminal.text()
    assert "\x1b" not in text and text.startswith("1,001,235/10,000,000 images")


def test_a_terminal_without_letters_for_blocks_gets_ascii():
    terminal = Terminal(80)
    terminal.stream.reconfigure(encoding="ascii")
    display = Progress(terminal.stream)
    display.show(snapshot(1_000_000), LOAD)
    display.say("写真")
    text = terminal.text()
    assert text.isascii() and "|###" in text and "67 C" in text and "\\u5199\\u771f" in text


def test_a_terminal_that_is_stopped_holds_nothing_up_and_is_drawn_again_when_it_goes_on(clock):
    with shown(80) as (terminal, display):
        termios.tcflow(terminal.stream.fileno(), termios.TCOOFF)
        for step in range(3000):
            display.show(snapshot(step), LOAD)
        display.say("said meanwhile")
        termios.tcflow(terminal.stream.fileno(), termios.TCOON)
        display.show(snapshot(5000), LOAD)
        lines = screen(terminal.text(), 80)
    assert lines[0] == "said meanwhile" and "1,006,234/10,000,000" in lines[1] and len(lines) == 11


def test_a_pipe_that_nobody_reads_holds_nothing_up_and_gets_what_was_said_later(clock):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    while True:
        try:
            os.write(writer, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    stream = open(writer, "w")  # noqa: SIM115
    display = Progress(stream)
    for step in range(20):
        display.say(f"sentence {step}")
        display.show(snapshot(step), LOAD)
        clock.now += 10
    os.read(reader, 1 << 20)
    display.say("at last")
    said = os.read(reader, 1 << 20).decode()
    assert "sentence 0\n" in said and said.endswith("at last\n")
    stream.close()
    os.close(reader)


def test_a_last_line_without_workers():
    stream = io.StringIO()
    Progress(stream).show(Snapshot(3, 0, 2, 1), Load(), last=True)
    assert stream.getvalue() == "3/3 images, 0.00/s (0.00/s in all), 1 failed, 0 flagged\n"


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
    display = Progress(stream)
    for step in range(30):
        display.show(snapshot(step), LOAD)
        display.say("still here")
        clock.now += 6
    assert stream.left == -1, "it was asked again"
    display.show(snapshot(100), LOAD, last=True)
    display.close()
    assert stream.left == -1


def test_a_stream_that_is_closed_is_forgotten():
    stream = io.StringIO()
    stream.close()
    display = Progress(stream)
    display.say("nobody hears it")
    display.show(snapshot(1), LOAD, last=True)
    display.close()


def test_without_a_stream_it_is_silent(capsys):
    display = Progress(None)
    display.show(snapshot(1), LOAD)
    display.say("nobody hears it")
    display.show(snapshot(1), LOAD, last=True)
    display.close()
    assert capsys.readouterr() == ("", "")
