"""``python -m caption.report OUT``: what the job did and what its captions are like, on one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from caption.commandline import Parser, exit_code
from caption.console import say
from caption.errors import UsageError

_MOST_SAMPLES = 500  # pictures and texts of more would not stay below 10 MB


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _report(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m caption.report",
        description="Write one HTML page about the job of OUT: speed, captions, flags, failures and a gallery.",
        epilog="The page needs no network and nothing beside it. OUT may be that of a run at work, or a copy.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="output folder of a job")
    parser.add_argument("--to", metavar="FILE", type=Path, help="the page (default OUT/report.html)")
    parser.add_argument(
        "--samples", metavar="N", type=int, default=96, help=f"captions drawn at random (96; at most {_MOST_SAMPLES})"
    )
    parser.add_argument(
        "--image-root", metavar="DIR", type=Path, help="where the pictures lie (default the job's INPUT)"
    )
    return parser


def _report(given: argparse.Namespace) -> int:
    if not 0 <= given.samples <= _MOST_SAMPLES:
        raise UsageError(
            f"--samples: {given.samples} is not between 0 and {_MOST_SAMPLES}", "give a number of captions"
        )
    # Here, because a thumbnail's process imports this file again and needs none of these.
    from caption.report.content import report_content
    from caption.report.folder import Folder
    from caption.report.page import render, write

    folder, path = Folder(given.out), given.to or given.out / "report.html"
    say(f"Reading {sum(folder.counts.values()):,} rows.")
    page = render("report.html", time=folder.time, **report_content(folder, given.samples, given.image_root))
    write(path, page)
    say(f"Report: {path} ({len(page) / 1e6:.1f} MB). It opens in any browser, from disk.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
