"""Command line: argparse whose errors are one sentence, as all others."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from caption.console import complain
from caption.errors import CaptionError, UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError for wrong use."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see {self.prog} --help")

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        found, extra = self.parse_known_args(args, namespace)
        for word in extra:
            if word.startswith("-"):
                raise UsageError(f"there is no option {word}", nearest(word, self._option_string_actions))
        if extra:
            self.error(f"{extra[0]} is one too many: a name with spaces needs quotes")
        return found


def exit_code(work: Callable[[], int]) -> int:
    """What ``work`` returns; or that of the error that ends it, which is said in its sentence, or of Ctrl-C."""
    try:
        return work()
    except CaptionError as error:
        complain(error.sentence())
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def nearest(name: str, known: Iterable[str]) -> str:
    """What a user who typed a name that isn't known can do next."""
    close = difflib.get_close_matches(name.partition("=")[0], list(known), n=1)
    return f"{close[0]} is the nearest" if close else "see --help for all of them"
