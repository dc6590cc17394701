"""``python -m caption.run INPUT --output OUT``: arguments to settings to job; an error becomes one sentence."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # until the job takes over: a Ctrl-C ends without a traceback, a closed terminal nothing
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, frame: os._exit(128 + number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a file of the job must not become the standard output that was closed
    os.close(descriptor)

from caption.console import complain, say
from caption.errors import CaptionError
from caption.laps import Laps, process_begin


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    laps = Laps(process_begin())
    laps.end("interpreter")
    try:
        from caption.options import read_settings, shown_settings

        if "--list-prompts" in argv:
            from caption.prompts import shown_presets

            say(shown_presets())
            return 0
        settings, origins = read_settings(argv)
        if "--print-config" in argv:
            say(shown_settings(settings, origins))
            return 0
        from caption.job import run_job

        laps.end("imports")
        return run_job(settings, laps)
    except CaptionError as error:
        complain(error.sentence())
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
