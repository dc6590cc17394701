"""Child processes: what a parent learns of their end, and what it keeps of what they print."""

import os
import select
import signal

import pytest

from caption.process import Child


@pytest.fixture
def child(tmp_path, monkeypatch):
    """child("code"): a child process that runs this code as a module."""
    started = []

    def start(code):
        name = f"code{len(started)}"
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        started.append(Child(name, {}))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_the_last_words_name_the_signal_that_killed_it(child):
    one = child("import time; time.sleep(60)")
    os.kill(one.pid, signal.SIGSEGV)
    assert one.join(10)
    assert "SIGSEGV" in one.last_words()


def test_the_last_words_hold_the_last_line_that_it_printed(child):
    one = child("import sys; print('first'); sys.exit('out of luck')")
    assert one.join(10)
    assert one.last_words() == "ended with status 1 (out of luck)"


def test_a_child_that_comes_to_itself_after_its_parent_has_gone_ends_before_it_reads_its_first_message(child, tmp_path):
    """The kernel tells only those that have asked it to before."""
    one = child(
        f"import pathlib, sys, time\n"
        f"while not pathlib.Path({str(tmp_path / 'gone')!r}).exists(): time.sleep(0.01)\n"
        f"from caption.process import child_socket\n"
        f"child_socket()\n"
    )
    one.channel.send("the first message")
    one.channel.close()
    (tmp_path / "gone").touch()
    assert one.join(20)
    assert "EOFError: the parent is gone" in one.last_words()


def test_a_child_whose_parent_is_there_goes_on(child):
    one = child("from caption.process import child_socket; child_socket(); raise SystemExit('on')")
    one.channel.send("the first message")
    assert one.join(20)
    assert one.last_words() == "ended with status 1 (on)"


def test_a_talkative_child_takes_no_more_disk_than_a_megabyte_and_its_last_words_stay(child):
    one = child(
        "import sys\n"
        "sys.stdout.write('x' * 3_000_000); sys.stdout.flush()\n"
        "import socket; s = socket.socket(fileno=int(sys.argv[1])); s.send(b'1'); s.recv(1)\n"
        "sys.exit('the end')\n"
    )
    assert select.select([one.channel], [], [], 10)[0], "it has printed all"
    one.forget_words()
    assert os.fstat(one._words.fileno()).st_size == 0
    one.channel._sock.send(b"1")
    assert one.join(10)
    assert one.last_words() == "ended with status 1 (the end)"
    assert os.fstat(one._words.fileno()).st_size < 100


def test_what_it_printed_is_told_once_in_whole_lines_and_of_a_flood_the_last(child):
    one = child(
        "import sys, socket\n"
        "s = socket.socket(fileno=int(sys.argv[1]))\n"
        "for text in ('first\\n\\nhal', 'f\\n' + 'flood\\n' * 500 + 'last\\n'):\n"
        "    sys.stdout.write(text); sys.stdout.flush(); s.send(b'1'); s.recv(1)\n"
    )
    assert select.select([one.channel], [], [], 10)[0] and one.channel._sock.recv(1)
    assert one.new_words() == ["first"]
    assert one.new_words() == []
    one.channel._sock.send(b"1")
    assert select.select([one.channel], [], [], 10)[0] and one.channel._sock.recv(1)
    assert one.new_words() == ["flood"] * 19 + ["last"]
    one.channel._sock.send(b"1")
    assert one.join(10)


def test_a_child_sees_the_variables_given_and_not_those_taken_away(child, monkeypatch, tmp_path):
    monkeypatch.setenv("TAKEN", "1")
    code = "import os, sys; sys.exit(str((os.environ.get('GIVEN'), 'TAKEN' in os.environ)))"
    (tmp_path / "shows.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = Child("shows", {"GIVEN": "yes", "TAKEN": None})
    assert one.join(10)
    assert "('yes', False)" in one.last_words()
    one.close()
