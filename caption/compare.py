"""``python -m caption.compare OUT1 OUT2``: what two jobs made of the same images, side by side on one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from caption.commandline import Parser
from caption.console import complain, say
from caption.errors import CaptionError, UsageError

_MOST_SAMPLES = 300  # pictures and two texts of more would not stay below 10 MB


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    try:
        return _compare(_parser().parse_args(argv))
    except CaptionError as error:
        complain(error.sentence())
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m caption.compare",
        description="Write one HTML page that shows what two jobs (two models, two prompts) made of the same images.",
        epilog="The page needs no network and nothing beside it. A folder may be that of a run at work, or a copy.",
    )
    parser.add_argument("out1", metavar="OUT1", type=Path, help="output folder of a job")
    parser.add_argument("out2", metavar="OUT2", type=Path, help="output folder of another job of the same images")
    parser.add_argument("--to", metavar="FILE", type=Path, default=Path("compare.html"), help="the page (compare.html)")
    parser.add_argument(
        "--samples", metavar="N", type=int, default=72, help=f"pairs drawn at random (72; at most {_MOST_SAMPLES})"
    )
    parser.add_argument(
        "--image-root", metavar="DIR", type=Path, help="where the pictures lie (default the INPUT of OUT1)"
    )
    return parser


def _compare(given: argparse.Namespace) -> int:
    if not 0 <= given.samples <= _MOST_SAMPLES:
        problem = f"--samples: {given.samples} is not between 0 and {_MOST_SAMPLES}"
        raise UsageError(problem, "give a number of pairs")
    # Here, because a thumbnail's process imports this file again and needs none of these.
    from caption.report.comparison import comparison_content
    from caption.report.folder import Folder
    from caption.report.page import render, write

    first, second = Folder(given.out1), Folder(given.out2)
    if given.out1.resolve() == given.out2.resolve():
        raise UsageError(f"OUT1 and OUT2 are the same folder {given.out1}", "give two")
    say(f"Reading {sum(first.counts.values()) + sum(second.counts.values()):,} rows.")
    content = comparison_content(first, second, given.samples, given.image_root)
    page = render("compare.html", time=max(first.time, second.time), **content)
    write(given.to, page)
    say(f"Comparison: {given.to} ({len(page) / 1e6:.1f} MB). It opens in any browser, from disk.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
