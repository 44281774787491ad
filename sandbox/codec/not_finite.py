"""Finds where a result has a NaN or an Infinity: JSON has neither, and null is sent.

Imported when an answer has a null in it for the first time. Python 3.8 and newer.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterable
from typing import Any

from .plain_values import key_shown, shortened

_SCALARS = frozenset((str, int, bool, type(None), bytes))
#: At most this many values are looked at: about 2 ms.
LOOKED_AT = 10_000
#: The key of the only number of an array without dimensions, or of a scalar of numpy's.
_ITSELF = object()


def place_of_first(value: Any, name: str = "result") -> str | None:
    """Return the place of a NaN or an Infinity among the first LOOKED_AT values, None where there is none."""
    if type(value) is float:
        return None if math.isfinite(value) else name
    left = LOOKED_AT
    waiting: collections.deque[tuple[str, Any]] = collections.deque([(name, value)])
    while waiting and left > 0:
        place, one = waiting.popleft()
        for key, item in itertools.islice(_items(one, left), left):
            left -= 1
            if type(item) is float:
                if not math.isfinite(item):
                    return place if key is _ITSELF else shortened(f"{place}[{key_shown(key)}]")
            elif type(item) not in _SCALARS:
                waiting.append((shortened(f"{place}[{key_shown(key)}]"), item))
    return None


def _items(value: Any, most: int) -> Iterable[tuple[Any, Any]]:
    """Return keys and values of a dict, a list, a tuple or an array of numpy's; nothing for other values."""
    kind = type(value)
    if kind is dict:
        items: Iterable[tuple[Any, Any]] = value.items()
        return items
    if kind in (list, tuple):
        return enumerate(value)
    if kind.__module__ == "numpy" and getattr(getattr(value, "dtype", None), "kind", "") == "f":
        if value.ndim == 0:
            return [(_ITSELF, value.item())]
        return enumerate(value[:most].tolist() if value.ndim == 1 else value)
    return ()
