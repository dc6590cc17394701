"""Console: sentences for the user, on a terminal, in a pipe or into nothing. Speaking never fails."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

# Of runs: it goes nowhere until caption.log opens a file. What a pool says goes to "caption", and where its user wants.
LOG = logging.getLogger("caption.run")
LOG.setLevel(logging.INFO)
LOG.propagate = False
LOG.addHandler(logging.NullHandler())
# A file name can hold what moves the cursor, changes the title or clears the screen.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def harmless(text: str) -> str:
    """The text without anything that a terminal would obey."""
    return text.translate(_CONTROLS)


def say(text: str) -> None:
    """A line on standard output, and in the log if one is open."""
    _print(text, "stdout")
    LOG.info("%s", text)


def complain(text: str) -> None:
    """A line on standard error, and in the log if one is open."""
    _print(text, "stderr")
    LOG.error("%s", text)


def _print(text: str, name: str) -> None:
    stream: TextIO | None = getattr(sys, name)
    if stream is None:
        return
    try:
        encoding = stream.encoding or "utf-8"
        shown = harmless(text).encode(encoding, "backslashreplace").decode(encoding)
        print(shown, file=stream, flush=True)
    except (OSError, ValueError):
        # A closed terminal or pipe: nobody listens. The interpreter flushes the stream once more when it ends.
        setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
