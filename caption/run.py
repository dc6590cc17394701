"""``python -m caption.run INPUT --output OUT``: arguments to settings to job; an error is one sentence."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # a Ctrl-C while modules are imported ends the program without a traceback
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, frame: os._exit(128 + number))

from caption.errors import CaptionError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        from caption.options import read_settings, shown_settings

        settings, origins = read_settings(argv)
        if "--print-config" in argv:
            print(shown_settings(settings, origins))
            return 0
        from caption.job import run_job

        return run_job(settings)
    except CaptionError as error:
        print(f"caption: {str(error).rstrip('.')}.", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
