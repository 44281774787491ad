"""The conditions of `runs ls --where`: `loss < 0.3 and status = succeed`.

    condition   comparison | not condition | condition and condition | condition or condition | ( condition )
    comparison  key < value, with one of < <= > >= = == !=

The key is on the left, the value on the right; quotes allow every character in either. Values of tasks and
names of keys come from users and are only ever compared: nothing is evaluated. Text is neither less nor more
than a number.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...sandbox.shared.limits import parse_size
from .task_values import Scalar

_MAX_LENGTH = 2000
_MAX_DEPTH = 50
_FLOAT32_PRECISION = 2**-24
_OPERATORS: Mapping[str, Callable[[int], bool]] = {  # given -1, 0 or 1: less, equal or more
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
    "=": lambda order: order == 0,
    "==": lambda order: order == 0,
    "!=": lambda order: order != 0,
}
_TOKEN = re.compile(
    r"""\s*(?: (?P<operator> <=|>=|==|!=|<|>|= )
             | (?P<bracket> [()] )
             | '(?P<single>[^']*)' | "(?P<double>[^"]*)"
             | (?P<word> [^\s<>=!()'"]+ ) )""",
    re.VERBOSE,
)
_SIZES = ("peak", "size")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_EXAMPLE = "write it like: loss < 0.3 and status = succeed"


class FilterError(ValueError):
    """The condition cannot be read: one sentence, which says where."""


Values = Mapping[str, Scalar]


@dataclass(frozen=True)
class Condition:
    """A condition on a task's values."""

    holds: Callable[[Values], bool]
    keys: frozenset[str]  # those it names

    @staticmethod
    def parse(text: str) -> Condition:
        """Return the condition that the text describes. Raises FilterError."""
        if len(text) > _MAX_LENGTH:
            raise FilterError(f"the condition has more than {_MAX_LENGTH} characters")
        return _Parser(text).parse()


def check_keys(keys: Iterable[str], tasks: Iterable[Values]) -> None:
    """Raise FilterError for a key that no task has, if there are tasks: it is most likely mistyped."""
    known = {key for values in tasks for key in values}
    for key in sorted(keys):
        if known and key not in known:
            raise FilterError(f"no recorded task has a value called {key!r}{_similar(key, known)}")


def _similar(key: str, known: set[str]) -> str:
    within = sorted(one for one in known if key in one and not one.startswith(("metrics.", "output.")))
    found = within[:3] or difflib.get_close_matches(key, known, n=3)
    return f"; did you mean {' or '.join(found)}?" if found else ""


@dataclass(frozen=True)
class _Token:
    kind: str  # operator, bracket, word or quoted
    text: str
    place: int


class _Parser:
    """Reads one condition by recursive descent."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0
        self._keys: set[str] = set()

    def parse(self) -> Condition:
        holds = self._either()
        if (token := self._token()) is not None:
            raise _unexpected(token)
        return Condition(holds, frozenset(self._keys))

    def _either(self) -> Callable[[Values], bool]:
        parts = [self._both()]
        while self._skip_word("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda values: any(part(values) for part in parts)

    def _both(self) -> Callable[[Values], bool]:
        parts = [self._one()]
        while self._skip_word("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda values: all(part(values) for part in parts)

    def _one(self) -> Callable[[Values], bool]:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise FilterError(f"the condition is nested more than {_MAX_DEPTH} levels deep")
        try:
            if self._skip_word("not"):
                part = self._one()
                return lambda values: not part(values)
            if self._skip("bracket", "("):
                part = self._either()
                if not self._skip("bracket", ")"):
                    raise self._missing("a closing bracket")
                return part
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Callable[[Values], bool]:
        key = self._text("the name of a value")
        operator = self._accept("operator")
        if operator is None:
            raise self._missing(f"one of {' '.join(_OPERATORS)} after {key.text!r}")
        wanted = self._text(f"a value after {key.text} {operator.text}")
        self._keys.add(key.text)
        return _comparison(key.text, operator.text, wanted)

    def _text(self, what: str) -> _Token:
        token = self._accept("word") or self._accept("quoted")
        if token is None:
            raise self._missing(what)
        return token

    def _token(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _accept(self, kind: str) -> _Token | None:
        token = self._token()
        if token is None or token.kind != kind:
            return None
        self._next += 1
        return token

    def _skip(self, kind: str, text: str) -> bool:
        token = self._token()
        if token is None or token.kind != kind or token.text.lower() != text:
            return False
        self._next += 1
        return True

    def _skip_word(self, text: str) -> bool:
        return self._skip("word", text)

    def _missing(self, what: str) -> FilterError:
        token = self._token()
        where = f"before {token.text!r}" if token is not None else "at its end"
        return FilterError(f"the condition lacks {what} {where}; {_EXAMPLE}")


def _tokens(text: str) -> Iterator[_Token]:
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise FilterError(f"the condition cannot be read from {text[place:].strip()!r} on; {_EXAMPLE}")
        kind = match.lastgroup or ""
        is_quoted = kind in ("single", "double")
        yield _Token("quoted" if is_quoted else kind, match[kind], match.start())
        place = match.end()


def _unexpected(token: _Token) -> FilterError:
    return FilterError(f"the condition cannot be read from {token.text!r} on; {_EXAMPLE}")


def _comparison(key: str, operator: str, token: _Token) -> Callable[[Values], bool]:
    """Return whether a task's value compares so with the wanted one; never for a task without the value."""
    text = token.text
    number = None if token.kind == "quoted" else _number(key, text)
    is_met = _OPERATORS[operator]

    def holds(values: Values) -> bool:
        value = values.get(key)
        if value is None:
            return False
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if number is None:
                return operator == "!="
            order = _order(value, number)
            return operator == "!=" if order is None else is_met(order)
        own = str(value).lower() if isinstance(value, bool) else value
        if number is not None and own != text:  # `loss < 0.3`, and the task's loss is "diverged"
            return operator == "!="
        return is_met((own > text) - (own < text))

    return holds


def _order(one: float, other: float) -> int | None:
    """Return -1, 0 or 1; None when one is not a number and the other is.

    Event files hold metrics in 32 bits: the 0.1 that was logged is read back as 0.10000000149, and is equal.
    """
    # Not math.isnan(): it raises OverflowError for an integer beyond the range of a float.
    if one != one or other != other:
        return 0 if one != one and other != other else None
    if isinstance(one, float) and math.isclose(one, other, rel_tol=_FLOAT32_PRECISION):
        return 0
    return (one > other) - (one < other)


def _number(key: str, text: str) -> float | None:
    """Return the number that the text is, of a size or a duration also with its unit. Raises FilterError."""
    try:
        return float(text)
    except ValueError:
        pass
    if key in _SIZES:
        try:
            return parse_size(text)
        except ValueError as error:
            raise FilterError(f"{key}: {error}") from None
    if key == "duration":
        match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)([a-z]+)", text)
        if match is None or match[2] not in _SECONDS:
            raise FilterError(f"duration: {text!r} is not a time, like 0.5, 500ms, 2s, 1m or 1h")
        return float(match[1]) * _SECONDS[match[2]]
    return None
