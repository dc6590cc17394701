"""Console: speaking never fails, and one strange name silences nothing that follows."""

import subprocess
import sys

from tests.runs import ROOT, environment

SPEAK = "from caption.console import say, complain; say('b\\udc80'); say('after'); complain('at last')"


def speak(redirection: str = "", encoding: str = "utf-8:strict") -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, SPEAK], capture_output=True, text=True, cwd=ROOT,
        env=environment(PYTHONIOENCODING=encoding), timeout=60, check=False,
    )  # fmt: skip


def test_a_name_that_is_no_text_is_shown_escaped_and_the_rest_follows():
    for encoding in ("utf-8:strict", "ascii:strict"):
        done = speak(encoding=encoding)
        assert (done.returncode, done.stdout, done.stderr) == (0, "b\\udc80\nafter\n", "at last\n")


def test_a_closed_stream_or_pipe_is_no_error():
    for redirection in (">&-", "2>&-", ">&- 2>&-", "| true", "> /dev/full"):
        done = speak(redirection)
        assert done.returncode == 0
        assert done.stderr in ("", "at last\n")
