"""Command line: argparse whose errors are one sentence, as all others."""

from __future__ import annotations

import argparse
from typing import NoReturn

from caption.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError for wrong use."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see {self.prog} --help")
