"""Option: what the command line, the README and the checks know of a setting, and how a value becomes one of it."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from caption.errors import UsageError


@dataclass(frozen=True)
class Option:
    """One field of ``caption.settings.Settings``."""

    name: str
    type: type
    optional: bool
    default: Any
    help: str
    group: str
    mark: str
    choices: tuple[str, ...] | None
    metavar: str | None
    check: Callable[[Any], str | None] | None
    listed: bool  # a list of numbers or words in YAML is the same as these with commas between them
    make: Callable[[Any], Any] | None  # from what was written to the value; raises ValueError with a sentence

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "CAPTION_" + self.name.upper()

    def parse(self, value: Any, where: str) -> Any:
        """A value of the option's type from text or from YAML.

        Raises:
            UsageError: it is of another type, or the option's check refuses it.
        """
        if self.optional and (value is None or (value == "auto" and "auto" in (self.metavar or ""))):
            return None
        see = f"see {self.flag} in --help"
        if value is None:
            raise UsageError(f"{where} has no value", see)
        try:
            parsed = self._convert(value)
        except (TypeError, ValueError):
            word = isinstance(value, bool) and self.type is str  # of YAML: yes, no, on, off
            next_step = "write the word in quotes" if word else see
            raise UsageError(f"{where}: {_quoted(value)} is no {_TYPES[self.type]}", next_step) from None
        except OverflowError:
            raise UsageError(f"{where}: {_quoted(value)} is too large", see) from None
        if self.make:
            try:
                parsed = self.make(parsed)
            except ValueError as error:
                raise UsageError(f"{where}: {error}", see) from None
        if self.choices and parsed not in self.choices:
            raise UsageError(f"{where}: {value!r} is not known", f"choose one of {', '.join(self.choices)}")
        problem = self.check(parsed) if self.check else None
        if problem:
            raise UsageError(f"{where}: {value!r} {problem}", see)
        return parsed

    def _convert(self, value: Any) -> Any:
        if self.type is bool:
            if isinstance(value, bool):
                return value
            return {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False,
                    "off": False}[str(value).lower()] if str(value).lower() in _WORDS else _refuse()  # fmt: skip
        if isinstance(value, bool) or (self.type is int and isinstance(value, float)):
            _refuse()
        if self.type is str:
            return self._text(value)
        if self.type is dict:
            return value
        number = self.type(value)
        if self.type is int and not -_TOO_LARGE <= number < _TOO_LARGE:
            raise OverflowError
        if not math.isfinite(number):
            _refuse()
        return number

    def _text(self, value: Any) -> str:
        """YAML makes numbers and dates of words that look like them; the other types are mistakes."""
        if self.listed and isinstance(value, list) and value:
            if any(isinstance(part, bool) or not isinstance(part, int | str) for part in value):
                _refuse()
            return ",".join(map(str, value))
        if "=" in (self.metavar or "") and isinstance(value, dict) and value:
            return ",".join(f"{name}={part}" for name, part in value.items())
        if not isinstance(value, str | int | float | datetime.date):
            _refuse()
        return str(value)


_TOO_LARGE = 2**62  # libraries below count in 64 bits, and add
_TYPES = {int: "whole number", float: "number", str: "text", bool: "yes or no", dict: "mapping"}
_WORDS = {"1", "true", "yes", "on", "0", "false", "no", "off"}


def _refuse():
    raise ValueError


def _quoted(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python refuses to write a number of thousands of digits
        return "the number"
