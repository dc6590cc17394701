"""``python -m caption.compare OUT1 OUT2``: what two jobs, or prompts, made of the same images, side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from caption.commandline import Parser, exit_code
from caption.console import say
from caption.errors import UsageError

_MOST_SAMPLES = 300  # pictures and two texts of more would not stay below 10 MB


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return exit_code(lambda: _compare(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m caption.compare",
        description="Write one HTML page that shows what two jobs, or two prompts of one, made of the same images.",
        epilog="The page needs no network and nothing beside it. A folder may be that of a run at work, or a copy.",
    )
    parser.add_argument("out1", metavar="OUT1", type=Path, help="output folder of a job")
    parser.add_argument(
        "out2", metavar="OUT2", type=Path, nargs="?", help="output folder of another job of the same images"
    )
    parser.add_argument("--prompts", metavar="A,B", default="", help="two of the prompts of OUT1, in place of OUT2")
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

    first, second = (Folder(out, prompt) for out, prompt in _sides(given))
    say(f"Reading {sum(first.counts.values()) + sum(second.counts.values()):,} rows.")
    content = comparison_content(first, second, given.samples, given.image_root)
    page = render("compare.html", time=max(first.time, second.time), **content)
    write(given.to, page)
    say(f"Comparison: {given.to} ({len(page) / 1e6:.1f} MB). It opens in any browser, from disk.")
    return 0


def _sides(given: argparse.Namespace) -> list[tuple[Path, str]]:
    """Folder and prompt ("" is all) of each."""
    prompts = [name.strip() for name in given.prompts.split(",")]
    if bool(given.out2) == bool(given.prompts):
        raise UsageError("there is one thing to compare" if not given.out2 else "--prompts is for one OUT",
                         "give OUT1 and OUT2, or OUT1 and --prompts A,B")  # fmt: skip
    if given.out2:
        if given.out1.resolve() == given.out2.resolve():
            raise UsageError(f"OUT1 and OUT2 are the same folder {given.out1}", "give two, or --prompts A,B")
        return [(given.out1, ""), (given.out2, "")]
    if len(set(prompts)) != 2 or not all(prompts):
        raise UsageError(f"--prompts: {given.prompts!r} is not two names", "give two of OUT1's, as short,tags")
    return [(given.out1, name) for name in prompts]


if __name__ == "__main__":
    sys.exit(main())
