"""Expression: a condition on a caption, as ``score > 0.3 and not flags``; a small language of its own, never code.

What it knows, and what missing values do in it: README.md beside this file.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Sequence

from caption.choose import conditions
from caption.choose.conditions import Condition, Operand, Row
from caption.choose.fields import ANY, KNOWN, LIST, NUMBER, TEXT, TRUTH, Field, find_field
from caption.choose.tokens import END, NAME, ORDER, SIGN, WORD, Token, tokens
from caption.errors import UsageError
from caption.guard.actions import FLAGS

_ORDERS = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_DEEPEST = 100  # parentheses and nots inside each other
_SHOWN = 40  # letters of a token, fields of the rows


class Expression:
    """Args:
        text: the condition.
        extra: names in the rows' ``extra`` that may stand without "extra." before them.
        option: of the command line, for sentences.

    Attributes:
        fields: that it asks for, by name.
        needed: ... that it compares or looks into, so that a row which lacks one may neither pass nor fail.
        test: whether a row passes; None if that hangs on a value that it has not.

    Raises:
        UsageError: it can't be read; the sentence names the letter.
    """

    def __init__(self, text: str, extra: Collection[str] = (), option: str = "--where"):
        self._option, self._extra = option, extra
        self._tokens = list(tokens(text, option))
        self._next = self._depth = 0
        self.fields: dict[str, Field] = {}
        self.needed: dict[str, Field] = {}
        self.test: Condition = self._any_of()
        if self._peek().kind != END:
            raise self._unexpected("and, or, or the end")

    # ---- from the loosest to the tightest ----

    def _any_of(self) -> Condition:
        return self._joined("or", self._all_of, conditions.any_of)

    def _all_of(self) -> Condition:
        return self._joined("and", self._not, conditions.all_of)

    def _joined(
        self, word: str, part: Callable[[], Condition], join: Callable[[Sequence[Condition]], Condition]
    ) -> Condition:
        parts = [part()]
        while self._take(WORD, word):
            parts.append(part())
        return join(parts) if len(parts) > 1 else parts[0]

    def _not(self) -> Condition:
        if not (token := self._take(WORD, "not")):
            return self._condition()
        self._deeper(token)
        negated = conditions.negation(self._not())
        self._depth -= 1
        return negated

    def _condition(self) -> Condition:
        if token := self._take(SIGN, "("):
            self._deeper(token)
            inner = self._any_of()
            if not self._take(SIGN, ")"):
                raise self._unexpected("and, or, or )")
            self._depth -= 1
            return inner
        left = self._operand()
        if self._peek().kind == ORDER:
            return self._comparisons(left)
        if self._take(WORD, "contains"):
            return self._contains(left)
        if self._take(WORD, "matches"):
            return self._matches(left)
        if self._take(WORD, "is"):
            return self._missing(left)
        negated = self._take(WORD, "not")
        if self._take(WORD, "in"):
            return conditions.negation(self._in(left)) if negated else self._in(left)
        if negated:
            raise self._unexpected("in")
        if left.fixed and left.kind != TRUTH:
            raise self._wrong(left.token, "is no condition", "compare it with a field")
        return conditions.there(left)

    def _deeper(self, token: Token) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._wrong(token, f"stands inside {_DEEPEST} others", "write it flatter")

    # ---- conditions ----

    def _comparisons(self, left: Operand) -> Condition:
        """One, or several in a row: 0.2 < score < 0.4."""
        parts = []
        while self._peek().kind == ORDER:
            sign = self._advance()
            right = self._operand()
            self._check_kinds(left, right)
            self._need(left, right)
            parts.append(conditions.comparison(_ORDERS[sign.value], left, right))
            left = right
        return conditions.all_of(parts) if len(parts) > 1 else parts[0]

    def _check_kinds(self, left: Operand, right: Operand) -> None:
        for one in (left, right):
            if one.kind == LIST:
                name = one.token.shown
                raise self._wrong(one.token, "is a list, which has no value of its own", f'write "…" in {name}')
        if left.kind != right.kind and ANY not in (left.kind, right.kind):
            problem = f"is {right.kind}, and {left.token.shown} is {left.kind}"
            raise self._wrong(right.token, problem, "compare two of one kind")

    def _contains(self, left: Operand) -> Condition:
        right = self._operand()
        if left.fixed or left.kind not in (TEXT, LIST, ANY):
            raise self._wrong(left.token, "can't contain a text", 'write it as in caption contains "dog"')
        if not (right.fixed and right.kind == TEXT):
            raise self._wrong(right.token, "is no text in quotes", 'write it as in caption contains "dog"')
        self._check_flag(left, right)
        self._need(left)
        return conditions.contains(left, right.token.value)

    def _matches(self, left: Operand) -> Condition:
        right = self._operand()
        if left.fixed or left.kind not in (TEXT, ANY):
            raise self._wrong(left.token, "is no field with a text", 'write it as in caption matches "^A dog"')
        if not (right.fixed and right.kind == TEXT):
            raise self._wrong(right.token, "is no text in quotes", 'write it as in caption matches "^A dog"')
        self._need(left)
        try:
            return conditions.matches(left, re.compile(right.token.value))
        except (re.error, RecursionError, OverflowError) as error:
            problem = f"is no regular expression ({error})"
            raise self._wrong(right.token, problem, "write it as Python's re has it") from error

    def _missing(self, left: Operand) -> Condition:
        negated = self._take(WORD, "not")
        if not self._take(WORD, "missing"):
            raise self._unexpected("missing or not missing")
        if left.fixed:
            raise self._wrong(left.token, "is no field", "ask of a field whether it is missing")
        found = conditions.missing(left)
        return conditions.negation(found) if negated else found

    def _in(self, left: Operand) -> Condition:
        if self._take(SIGN, "("):
            return self._in_list(left)
        right = self._operand()
        if right.fixed or right.kind not in (TEXT, LIST, ANY) or left.kind not in (TEXT, ANY):
            raise self._wrong(right.token, "can't hold the value before in", 'write it as in "loop" in flags')
        self._check_flag(right, left)
        self._need(left, right)
        return conditions.inside(left, right)

    def _in_list(self, left: Operand) -> Condition:
        parts = []
        while True:
            right = self._operand()
            if not right.fixed:
                raise self._wrong(right.token, "is a field", "a list in parentheses holds texts and numbers")
            self._check_kinds(left, right)
            self._need(left)
            parts.append(conditions.comparison(operator.eq, left, right))
            if self._take(SIGN, ")"):
                return conditions.any_of(parts)
            if not self._take(SIGN, ","):
                raise self._unexpected(", or )")

    def _need(self, *operands: Operand) -> None:
        for one in operands:
            if not one.fixed:
                self.needed[one.field.name] = one.field

    def _check_flag(self, holder: Operand, text: Operand) -> None:
        if holder.kind == LIST and text.fixed and text.token.value not in FLAGS:
            raise self._wrong(text.token, "is no flag", f"the flags are {', '.join(FLAGS)}")

    def _operand(self) -> Operand:
        token = self._peek()
        if token.kind in (NUMBER, TEXT, TRUTH):
            self._advance()
            return Operand(lambda row: token.value, token.kind, token)
        if token.kind != NAME:
            raise self._unexpected("a field, a number or a text in quotes")
        self._advance()
        field = find_field(token.value, self._extra)
        if field is None:
            own = sorted(set(self._extra) - set(KNOWN))[:_SHOWN]
            raise self._wrong(token, "is no field", f"the fields are {', '.join([*KNOWN, *own])}")
        self.fields[field.name] = field
        return Operand(field.of, field.kind, token, field)

    # ---- tokens ----

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _advance(self) -> Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _take(self, kind: str, value: str) -> Token | None:
        token = self._peek()
        return self._advance() if (token.kind, token.value) == (kind, value) else None

    def _unexpected(self, wanted: str) -> UsageError:
        token = self._peek()
        if token.kind == END:
            return UsageError(f"{self._option} ends too early", f"after its last letter there should be {wanted}")
        return self._wrong(token, "can't stand there", f"there should be {wanted}")

    def _wrong(self, token: Token, problem: str, remedy: str) -> UsageError:
        shown = token.shown if len(token.shown) <= _SHOWN else token.shown[:_SHOWN] + "…"
        return UsageError(f"{self._option}: {shown} (letter {token.at}) {problem}", remedy)


def parse_field(text: str, extra: Collection[str], option: str) -> Field:
    """A field alone, whose values are numbers. Raises UsageError: it is something else."""
    expression = Expression(text, extra, option)
    fields = list(expression.fields.values())
    if len(fields) != 1 or len(list(tokens(text, option))) != 2 or fields[0].kind not in (NUMBER, ANY):
        raise UsageError(f"{option}: {text} is no field that holds numbers", "name one, as score, parts.NAME or words")
    return fields[0]


def value_of(field: Field, row: Row) -> float | None:
    """The number that a row has there; None if it has none."""
    value = field.of(row)
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
