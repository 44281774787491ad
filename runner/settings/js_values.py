"""Values of a descriptor as HKube sees them: it is written in JavaScript, so numbers and text are its."""

from __future__ import annotations

import json
import math
import re
from typing import Any


def number_of(value: Any) -> float | None:
    """Return the number that HKube's server takes this for; None: it takes it for none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        # The server takes a numeric string for a number.
        if not re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", value):
            return None
        value = float(value)
    if not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e300 else None


def text_of(value: Any) -> str:
    """Return a scalar as JavaScript, in which HKube is written, makes text of it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Its numbers are doubles, and plain digits below 10**21.
        return str(value) if abs(value) < 2**53 else text_of(float(value))
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
    """Return 0.00001 for 1e-05: Python writes exponents sooner."""
    digits, _, exponent = text.partition("e")
    if not exponent:
        return text
    sign = "-" if digits.startswith("-") else ""
    return f"{sign}0.{'0' * (-int(exponent) - 1)}{digits.lstrip('-').replace('.', '')}"


def kind_of(value: Any) -> str:
    """Name what this is instead of an object."""
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
    """Return a key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")
