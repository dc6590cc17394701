"""Conditions: what a part of an expression says of a row: true, false, or None where a value it needs is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from caption.choose.fields import ANY, Field
from caption.choose.tokens import Token
from caption.precision import AFTER_FP16

Row = dict[str, Any]
Condition = Callable[[Row], bool | None]


class Operand(NamedTuple):
    """Attributes:
    of: its value in a row; None: it has none.
    kind: of caption.choose.fields.
    field: None where it is written out.
    """

    of: Callable[[Row], Any]
    kind: str
    token: Token
    field: Field | None = None

    @property
    def fixed(self) -> bool:
        return self.field is None


def there(operand: Operand) -> Condition:
    """Whether it has a value that is neither empty, 0 nor false; of flags, one that is a doubt."""

    def test(row: Row) -> bool:
        value = operand.of(row)
        return any(one != AFTER_FP16 for one in value) if isinstance(value, list) else bool(value)

    return test


def any_of(conditions: Sequence[Condition]) -> Condition:
    def test(row: Row) -> bool | None:
        unknown = False
        for condition in conditions:
            if found := condition(row):
                return True
            unknown |= found is None
        return None if unknown else False

    return test


def all_of(conditions: Sequence[Condition]) -> Condition:
    def test(row: Row) -> bool | None:
        unknown = False
        for condition in conditions:
            if (found := condition(row)) is False:
                return False
            unknown |= found is None
        return None if unknown else True

    return test


def negation(condition: Condition) -> Condition:
    return lambda row: None if (found := condition(row)) is None else not found


def comparison(compare: Callable[[Any, Any], bool], left: Operand, right: Operand) -> Condition:
    sure = left.kind == right.kind != ANY

    def test(row: Row) -> bool | None:
        a, b = left.of(row), right.of(row)
        if a is None or b is None:
            return None
        if sure:
            return compare(a, b)
        try:
            return compare(*_alike(a, b))
        except (TypeError, ValueError):
            return None

    return test


def contains(left: Operand, text: str) -> Condition:
    """Whether a text has this one in it, or a list has it; in any case of letters."""
    wanted = text.casefold()

    def test(row: Row) -> bool | None:
        value = left.of(row)
        if isinstance(value, list):
            return any(isinstance(one, str) and one.casefold() == wanted for one in value)
        return None if value is None else wanted in str(value).casefold()

    return test


def matches(left: Operand, pattern: re.Pattern) -> Condition:
    return lambda row: None if (value := left.of(row)) is None else bool(pattern.search(str(value)))


def inside(left: Operand, holder: Operand) -> Condition:
    """Whether a value stands in a list, or a text in another one."""

    def test(row: Row) -> bool | None:
        value, found = left.of(row), holder.of(row)
        if value is None or not isinstance(found, list | str):
            return None
        return str(value) in found if isinstance(found, str) else value in found

    return test


def missing(left: Operand) -> Condition:
    return lambda row: left.of(row) is None


def _alike(a: Any, b: Any) -> tuple[Any, Any]:
    """Tables hold numbers, true and false as texts. Raises ValueError: the text is none of these."""
    if isinstance(a, str) == isinstance(b, str):
        return a, b
    return (_as(type(b), a), b) if isinstance(a, str) else (a, _as(type(a), b))


def _as(kind: type, text: str) -> Any:
    if kind is bool:
        return {"true": True, "false": False, "1": True, "0": False}.get(text.lower())
    return float(text)
