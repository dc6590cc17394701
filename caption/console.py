"""Console: sentences for the user, on a terminal, in a pipe or into nothing. Speaking never fails."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def say(text: str) -> None:
    """A line on standard output."""
    _print(text, "stdout")


def complain(text: str) -> None:
    """A line on standard error."""
    _print(text, "stderr")


def _print(text: str, name: str) -> None:
    stream: TextIO | None = getattr(sys, name)
    if stream is None:
        return
    try:
        encoding = stream.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError):
        # A closed terminal or pipe: nobody listens. The interpreter flushes the stream once more when it ends.
        setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
