"""A result as the encoding's own types: what is converted, and the sentence for what cannot be.

The table of conversions stands in codec.py. Python 3.8 and newer.
"""

from __future__ import annotations

import binascii
import collections
import enum
import math
import os
from collections import abc
from typing import Any, Dict, Optional

#: Two or three frames of Python a level must fit below the interpreter's recursion limit of 1000.
DEPTH_MAX = 200


class ResultInvalid(Exception):
    """A value that HKube's worker cannot take; the text names its place and type."""


def plain(value: Any, encoding: str, place: str, depth: int = 0) -> Any:
    """Return a copy made of the encoding's own types; raises ResultInvalid naming the place."""
    if depth > DEPTH_MAX:
        raise ResultInvalid(f"{_short(place)}: nested more than {DEPTH_MAX} deep, or it contains itself")
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return _text(value, encoding, place)
    if isinstance(value, enum.Enum):
        return plain(value.value, encoding, place, depth + 1)
    if isinstance(value, int) and type(value).__module__ != "numpy":
        return _whole(int(value), encoding, place)
    if isinstance(value, float):
        return None if encoding == "json" and not math.isfinite(value) else float(value)
    if isinstance(value, str):
        return _text(str.__str__(value), encoding, place)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return binascii.b2a_base64(value, newline=False).decode() if encoding == "json" else bytes(value)
    if isinstance(value, (list, tuple, set, frozenset, collections.deque, range)):
        return [plain(one, encoding, f"{place}[{i}]", depth + 1) for i, one in enumerate(value)]
    if isinstance(value, abc.Mapping):
        return _plain_dict(value, encoding, place, depth)
    if encoding == "bson" and is_of_bson(kind):
        return value
    known = _known_type(kind)
    if known == "datetime":
        if value != value:
            return None  # pandas' "not a time", as its "not a number"
        return value if encoding == "bson" else value.isoformat()
    if known in ("date", "time"):
        return value.isoformat()
    if known == "timedelta":
        return None if value != value else _duration(value)
    if known in ("UUID", "Decimal"):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(kind, "__dataclass_fields__"):
        return {
            name: plain(getattr(value, name), encoding, f"{place}.{name}", depth + 1)
            for name, field in kind.__dataclass_fields__.items()
            if field._field_type.name == "_FIELD"  # as dataclasses.fields() does: no ClassVar, no InitVar
        }
    tolist = getattr(value, "tolist", None)
    if callable(tolist) and not isinstance(value, type):
        converted = tolist()
        if type(converted) is not kind:  # numpy.longdouble has no other form
            return plain(converted, encoding, place, depth + 1)
    raise ResultInvalid(
        f"{_short(place)}: {_hint(value)} cannot be sent; numbers, texts, lists, dicts and None can"
    )


def _duration(value: Any) -> str:
    """Return it as ISO 8601 has it, in days and seconds: P1DT5S."""
    sign, value = ("-", -value) if value.days < 0 else ("", value)
    seconds = f"{value.seconds}.{value.microseconds:06}".rstrip("0").rstrip(".")
    parts = [f"{value.days}D" if value.days else "", f"T{seconds}S" if seconds != "0" else ""]
    return f"{sign}P{''.join(parts) or '0D'}"


def _plain_dict(value: Any, encoding: str, place: str, depth: int) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, one in value.items():
        inner = f"{place}[{key!r}]"
        name = _text(_key(key, place), encoding, inner)
        if encoding == "bson" and "\0" in name:
            raise ResultInvalid(f"{_short(inner)}: a key with a null character, bson cannot carry it")
        if name in found:
            raise ResultInvalid(f"{_short(inner)}: two keys become {name!r}: keys are text there")
        found[name] = plain(one, encoding, inner, depth + 1)
    return found


#: Told by name: these four modules together are a third of what the child needs for its start.
_KNOWN = {
    ("datetime", "datetime"): "datetime",
    ("datetime", "date"): "date",
    ("datetime", "time"): "time",
    ("datetime", "timedelta"): "timedelta",
    ("uuid", "UUID"): "UUID",
    ("decimal", "Decimal"): "Decimal",
}


def _known_type(kind: type) -> Optional[str]:
    """Return which of the standard library's types this one is, or is made from."""
    for base in kind.__mro__:
        known = known_name(base)
        if known is not None:
            return known
    return None


def known_name(kind: type) -> Optional[str]:
    return _KNOWN.get((kind.__module__, kind.__qualname__))


def is_of_bson(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "bson"


def _hint(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, abc.Coroutine):
        return f"{name} (a coroutine that was never awaited)"
    if isinstance(value, abc.Iterator):
        return f"{name} (return list(...) of it)"
    return name


def _short(place: str) -> str:
    return place if len(place) <= 300 else place[:140] + " … " + place[-140:]


def _text(value: str, encoding: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        if encoding != "json":
            raise ResultInvalid(
                f"{_short(place)}: text with a lone surrogate, {encoding} cannot carry it"
            ) from None
    return value


def _whole(value: int, encoding: str, place: str) -> int:
    most = 2**63 if encoding == "bson" else 2**64
    if encoding != "json" and not -(2**63) <= value < most:
        raise ResultInvalid(
            f"{_short(place)}: int of {value.bit_length()} bits, {encoding} carries 64: return it as text"
        )
    return value


def _key(key: Any, place: str) -> str:
    if isinstance(key, enum.Enum):
        return _key(key.value, place)
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    if isinstance(key, int):
        return repr(int(key))
    if isinstance(key, float):
        return repr(float(key))
    if type(key).__module__ == "numpy" and type(key.tolist()) is not type(key):
        return _key(key.tolist(), place)  # a number, as numpy.unique() gives them
    if isinstance(key, os.PathLike):
        return os.fsdecode(key)
    known = _known_type(type(key))
    if known in ("datetime", "date", "time"):
        return str(key.isoformat())
    if known in ("UUID", "Decimal"):
        return str(key)
    raise ResultInvalid(f"{_short(place)}: a key of type {_hint(key)}; keys must be text")
