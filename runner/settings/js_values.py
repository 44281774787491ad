"""Descriptor values as HKube, written in JavaScript, sees them: its rules for numbers and text apply."""

from __future__ import annotations

import json
import math
import re
from typing import Any


def number_of(value: Any) -> float | None:
    """Return the number that HKube's server reads this value as, None if it is no number to it."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        # The server accepts a numeric string as a number.
        if not re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", value):
            return None
        value = float(value)
    if not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e300 else None


def text_of(value: Any) -> str:
    """Return the text that JavaScript converts this scalar to."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # JavaScript's numbers are doubles, shown without an exponent below 10**21.
        if abs(value) < 2**53:
            return str(value)
        try:
            return text_of(float(value))
        except OverflowError:  # beyond the range of a double
            return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        if value == int(value) and abs(value) < 1e21:
            return str(int(value))
        text = repr(value)
        if 1e-6 <= abs(value) < 1e-4:
            return _plain(text)
        return re.sub(r"e([-+])0+", r"e\1", text)
    return str(value)


def _plain(text: str) -> str:
    """Return 0.00001 for 1e-05: Python switches to exponents earlier than JavaScript."""
    digits, _, exponent = text.partition("e")
    if not exponent:
        return text
    sign = "-" if digits.startswith("-") else ""
    return f"{sign}0.{'0' * (-int(exponent) - 1)}{digits.lstrip('-').replace('.', '')}"


def kind_of(value: Any) -> str:
    """Return the kind of a value that is not an object, for messages."""
    if value is None:
        return "nothing"
    names = {list: "a list", bool: "true or false", str: "text"}
    return names.get(type(value), "a number")


def short(value: Any) -> str:
    """Return the value as JSON for a message, cut to 60 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "…"


def escaped(key: str) -> str:
    """Return the key, escaped for a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")
