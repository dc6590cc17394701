"""Checks: what is wrong with the value of an option, as words that follow it; None if nothing is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def at_least(low: float) -> Callable[[Any], str | None]:
    return lambda value: None if value >= low else f"is less than {low}"


def above_zero_to_one(value: float) -> str | None:
    return None if 0 < value <= 1 else "is not above 0 and at most 1"


def refused_by(parse: Callable[[str], Any]) -> Callable[[str], str | None]:
    def check(value: str) -> str | None:
        try:
            parse(value)
        except ValueError as error:
            return str(error)
        return None

    return check


def no_utf_8(value: str) -> str | None:
    """Bytes that the system hands over as they are stand in a text as surrogates, which no JSON can hold."""
    fine = value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    return None if fine else "is no UTF-8"


def endings(value: str) -> str | None:
    bad = [ending for ending in value.split(",") if not ending.startswith(".") or "/" in ending]
    return "is no ending like .txt" if value and bad else None
