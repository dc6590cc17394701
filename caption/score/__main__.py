"""``python -m caption.score OUT --scorer SCORER``: a score for each caption, by similarity, a judge or references."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from caption.commandline import Parser, exit_code
from caption.engine import JUDGE
from caption.errors import OutputError, UsageError
from caption.options import add_option, layered
from caption.report.folder import Folder
from caption.score.job import SCORE_OPTIONS, score_captions
from caption.scorer import make_scorer
from caption.settings import GROUPS, OPTIONS, Settings
from caption.stop import StopSignals

_EPILOG = """SCORER: a CLIP or SigLIP by hub id or folder (shapes-scorer is a tiny embedded one, for trying), judge (the
model that made the captions), judge:MODEL, or reference. Typed again, it scores what has come since."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: _score(words))


def _score(argv: Sequence[str]) -> int:
    out, named, anew, settings = _read(argv, os.environ)
    if not (out / "checkpoint").is_dir():
        raise OutputError(f"{out} is no output folder of a job", "give the --output of a run")
    with StopSignals() as stop:
        before = Folder(out).settings
        if named == JUDGE and not settings.revision:
            settings = dataclasses.replace(settings, revision=before.get("revision"))
        scorer = make_scorer(named, settings, before.get("model") or OPTIONS["model"].default)
        again = shlex.join(["python", "-m", "caption.score", *(word for word in argv if word != "--anew")])
        return score_captions(settings, out, scorer, scorer.find(settings), stop, again, anew=anew)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m caption.score",
        usage="python -m caption.score OUT --scorer SCORER [options]",
        description="Score the captions of OUT; type the same command again to go on.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="output folder of a run, which may still be at work")
    parser.add_argument("--scorer", metavar="SCORER", help="what scores the captions; as --then-score of caption.run")
    parser.add_argument("--anew", action="store_true", help="take out all scores first, of whatever scorer")
    for group, title in GROUPS.items():
        section = parser.add_argument_group(title)
        for name in SCORE_OPTIONS:
            if OPTIONS[name].group == group:
                add_option(section, OPTIONS[name])
    parser.add_argument("--config", metavar="FILE", help="YAML file with options, as for caption.run")
    return parser


def _read(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[Path, str, bool, Settings]:
    given = vars(_parser().parse_args(argv))
    out, named, anew = given.pop("out"), given.pop("scorer", None), given.pop("anew", False)
    settings, _ = layered(given, environment)
    named = named or settings.then_score
    if not named:
        raise UsageError("--scorer is missing", "python -m caption.score OUT --scorer MODEL")
    return out, named, anew, settings


if __name__ == "__main__":
    sys.exit(main())
