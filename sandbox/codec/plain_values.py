"""A result as the encoding's own types: what is converted, and the sentence for what cannot be.

The table of conversions stands in codec.py. Python 3.8 and newer.
"""

from __future__ import annotations

import binascii
import collections
import enum
import itertools
import math
import os
import sys
from collections import abc
from typing import Any, Dict, List, Optional

#: Deepest nesting: each level takes two or three frames of Python, of 1000 that the interpreter allows.
DEPTH_MAX = 200
#: For plain lists and dicts: Python 3.13 writes any depth, and up to 3.12 a reader has 1000 with its calls.
NATIVE_DEPTH_MAX = 900
#: The encodings whose text is JSON.
_JSONS = ("json", "socket.io")
#: No message holds more values. A list of what only says that it has them would take all memory.
VALUES_MAX = 10**9
#: At most this many values are looked at for types that the libraries would convert in their own ways.
LOOKED_AT = 1000
#: Values this deep have so many of their lists and dicts looked at for how deep they are.
_DEPTH_SUSPECTED, _DEEP_LOOKED_AT = 50, 20_000
#: Python may refuse to write the digits of an int that has more bits: sys.set_int_max_str_digits() takes 640.
LONG_BITS = 2000


class ResultInvalid(Exception):
    """A value that HKube's worker cannot take; the text names its place and type."""


def plain(value: Any, encoding: str, place: str, depth: int = 0) -> Any:
    """Return a copy made of the encoding's own types; raises ResultInvalid naming the place."""
    if depth > DEPTH_MAX:
        raise _too_deep(place)
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return _text(value, encoding, place)
    if isinstance(value, enum.Enum):
        return plain(value.value, encoding, place, depth + 1)
    if issubclass(kind, int):  # a proxy is an instance of what it stands for, too
        return _whole(int.__int__(value), encoding, place)  # not what a subclass makes of itself
    if issubclass(kind, float):
        return None if encoding in _JSONS and not math.isfinite(value) else float(value)
    if issubclass(kind, str):
        return _text(str.__str__(value), encoding, place)
    if kind is memoryview and value.format in {*"hHiIlLqQnNfd?"}:  # numbers that tolist() can read
        return plain(value.tolist(), encoding, place, depth)
    if issubclass(kind, (bytes, bytearray, memoryview)):
        data = bytes(value)  # what is not contiguous, too
        return binascii.b2a_base64(data, newline=False).decode() if encoding == "json" else data
    if kind is range:
        return _plain_range(value, encoding, place)
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return [plain(one, encoding, f"{place}[{i}]", depth + 1) for i, one in enumerate(value)]
    if isinstance(value, abc.Mapping) and not _is_no_mapping(kind):
        return _plain_dict(value, encoding, place, depth)
    if encoding == "bson" and is_of_bson(kind):
        return value
    known = _known_type(kind)
    if known == "datetime":
        # The first is pandas' "not a time", as its "not a number".
        return None if value != value else value if encoding == "bson" else value.isoformat()
    if known in ("date", "time"):
        return value.isoformat()
    if known in ("UUID", "Decimal"):
        return str(value)
    if isinstance(value, os.PathLike) and _module_of(kind) != "unittest.mock":  # a MagicMock has all methods
        return plain(os.fspath(value), encoding, place, depth + 1)
    # An array of zarr's is a dataclass of how it is stored.
    if hasattr(kind, "__dataclass_fields__") and _module_of(kind).partition(".")[0] != "zarr":
        return {
            name: plain(_attribute(value, name, place), encoding, f"{place}.{name}", depth + 1)
            for name, field in kind.__dataclass_fields__.items()
            if field._field_type.name == "_FIELD"  # as dataclasses.fields() does: no ClassVar, no InitVar
        }
    return _plain_of_library(value, encoding, place, depth, known)


def _plain_range(value: range, encoding: str, place: str) -> List[int]:
    """Return the numbers; a range of a hundred million is written as quickly as any other, and may be."""
    for at, one in ((0, value[:1]), (-1, value[-1:])):  # the largest of them is one of these
        for number in one:
            _whole(number, encoding, f"{place}[{at}]")
    if has_too_many(value):
        raise _too_many(value, place)
    return list(value)


def has_too_many(value: Any) -> bool:
    """Whether the value says that it has more values than any message."""
    try:
        return len(value) > VALUES_MAX
    except OverflowError:
        return True
    except Exception:  # noqa: BLE001 - the user's own __len__; to make a list of it raises the same
        return False


def _too_many(value: Any, place: str) -> ResultInvalid:
    return ResultInvalid(
        f"{shortened(place)}: {type(value).__qualname__} of more than {VALUES_MAX:,} values cannot be sent"
    )


def _too_deep(place: str) -> ResultInvalid:
    """Return the error for a value that is nested too deep; it says so if the value contains itself."""
    calls = []
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is plain.__code__:
            calls.append((id(frame.f_locals["value"]), frame.f_locals["place"]))
        frame = frame.f_back  # type: ignore[assignment]
    places: Dict[int, str] = {}
    for one, inner in reversed(calls):
        outer = places.setdefault(one, inner)
        if outer is not inner:
            return ResultInvalid(
                f"{shortened(inner)}: it is {shortened(outer)} again, which contains itself: break the circle"
            )
    return ResultInvalid(f"{shortened(place)}: nested more than {DEPTH_MAX} deep")


def _plain_of_library(value: Any, encoding: str, place: str, depth: int, known: Optional[str]) -> Any:
    from . import library_values

    if known == "timedelta":
        return None if value != value else _duration(value)
    kind = type(value)
    fields = library_values.fields_of(value)
    if fields is not None:
        return {
            **library_values.tag_of(kind),
            **{
                shown: plain(_attribute(value, name, place), encoding, f"{place}.{name}", depth + 1)
                for name, shown in fields.items()
            },
        }
    if isinstance(value, (abc.Sequence, abc.Set, abc.ValuesView)) and has_too_many(value):
        raise _too_many(value, place)
    failure = ""
    try:
        form = library_values.form_of(value, encoding)
        if form is not library_values.NO_FORM:
            return plain(form, encoding, place, depth + 1)
    except library_values.ConversionFailed as error:
        failure = f": {error}"
    from . import conversion_hints

    sentence = f"{shortened(place)}: {conversion_hints.shown(value)} cannot be sent{failure}"
    try:
        call = conversion_hints.call_for(value, _key_of)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - a class that only looks like a library's
        call = ""
    if call:
        raise ResultInvalid(f"{sentence}; use {call}")
    raise ResultInvalid(sentence if failure else f"{sentence}; numbers, texts, lists, dicts and None can")


def _is_no_mapping(kind: type) -> bool:
    """Whether a mapping stands for something else than an object: a sparse matrix, a Dataset of xarray. A
    MapScalar of Arrow does not even have a mapping's methods."""
    root = _module_of(kind).partition(".")[0]
    is_sparse = root == "scipy" and hasattr(kind, "toarray")
    return is_sparse or root == "pyarrow" or (root == "xarray" and kind.__name__ == "Dataset")


def _attribute(value: Any, name: str, place: str) -> Any:
    try:
        return getattr(value, name)
    except AttributeError as error:  # a field that was never set
        raise ResultInvalid(f"{shortened(place)}.{name} cannot be read: AttributeError: {error}") from None


def _duration(value: Any) -> str:
    from . import library_values

    microseconds = (value.days * 86_400 + value.seconds) * 10**6 + value.microseconds
    # A Timedelta of pandas' has nanoseconds as well.
    return library_values.duration(microseconds * 1000 + getattr(value, "nanoseconds", 0), 9)


def _key_of(value: Any) -> Optional[str]:
    """Return the text that a value is as a key, None where it can be none."""
    try:
        return _key(value, "")
    except ResultInvalid:
        return None


def _plain_dict(value: Any, encoding: str, place: str, depth: int) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, one in value.items():
        inner = f"{place}[{key_shown(key)}]"
        name = _text(_key(key, place), encoding, inner)
        if encoding == "bson" and "\0" in name:
            raise ResultInvalid(f"{shortened(inner)}: a key with a null character, bson cannot carry it")
        if name in found:
            raise ResultInvalid(f"{shortened(inner)}: two keys become {name!r}: keys are text there")
        found[name] = plain(one, encoding, inner, depth + 1)
    return found


def key_shown(key: Any) -> str:
    """Return a key as messages show it."""
    try:
        return repr(key)
    except Exception:  # noqa: BLE001 - the user's own __repr__
        return f"<{type(key).__qualname__}>"


#: Recognized by name: importing these modules would take a third of the child's start.
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
    return _KNOWN.get((_module_of(kind), kind.__qualname__))


def is_of_bson(kind: type) -> bool:
    return _module_of(kind).partition(".")[0] == "bson"


def _module_of(kind: type) -> str:
    """Return the name of a class's module; "" if the user's class has something else there."""
    module = kind.__module__
    return module if type(module) is str else ""


def shortened(place: str) -> str:
    """Return the place of a value, without its middle where it is long."""
    return place if len(place) <= 300 else place[:140] + " … " + place[-140:]


def _text(value: str, encoding: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        if encoding not in _JSONS:
            raise ResultInvalid(
                f"{shortened(place)}: text with a lone surrogate, {encoding} cannot carry it"
            ) from None
    return value


def _whole(value: int, encoding: str, place: str) -> int:
    most = 2**63 if encoding == "bson" else 2**64
    if encoding not in _JSONS and not -(2**63) <= value < most:
        room = "64" if most == 2**64 and value > 0 else "63 and a sign"
        told = f"int of {value.bit_length()} bits, {encoding} carries {room}: return it as text"
        raise ResultInvalid(f"{shortened(place)}: {told}")
    if value.bit_length() > LONG_BITS:
        _digits(value, place)
    return value


def _digits(value: int, place: str) -> str:
    """Return the decimal digits of an int; Python makes none of one that is too long (3.10.7 and newer)."""
    try:
        return repr(value)
    except ValueError:
        raise ResultInvalid(
            f"{shortened(place)}: int of {value.bit_length():,} bits: Python refuses to write so many "
            "digits; use hex(...) of it"
        ) from None


def _key(key: Any, place: str) -> str:
    if isinstance(key, enum.Enum):
        return _key(key.value, place)
    if issubclass(type(key), str):
        return str.__str__(key)
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    if isinstance(key, int):
        return _digits(int(key), place)
    if isinstance(key, float):
        return repr(float(key))
    if isinstance(key, os.PathLike):
        return os.fsdecode(key)
    known = _known_type(type(key))
    if known in ("datetime", "date", "time"):
        return str(key.isoformat())
    if known in ("UUID", "Decimal"):
        return str(key)
    if known == "timedelta" and key == key:
        return _duration(key)
    from . import library_values

    if library_values.root_of(type(key)) in ("numpy", "pandas", "sympy"):
        form = library_values.form_of(key, "json")
        if form is not None and form is not library_values.NO_FORM and type(form) is not type(key):
            return _key(form, place)
    from . import conversion_hints

    call = conversion_hints.call_for_key(key, _key_of)
    hint = f"; use {call}" if call else ""
    raise ResultInvalid(
        f"{shortened(place)}: a key of type {library_values.name_of(type(key))}; keys must be text{hint}"
    )


_SCALARS = frozenset((str, int, float, bool, type(None), bytes, bytearray))
_LISTS = frozenset((list, tuple, set, frozenset))
_DICTS = frozenset((dict, collections.OrderedDict, collections.defaultdict, collections.Counter))
_TEXT_KEYS = frozenset((str,))
_INT_KEYS = frozenset((int,))


def is_native(value: Any, encoding: str) -> bool:
    """Whether its first LOOKED_AT values are of types that every library takes as plain() does."""
    if type(value) in _SCALARS:
        return True
    left, deepest, waiting = LOOKED_AT, 0, [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        kind = type(one)
        if kind in _DICTS:
            keys = set(map(type, itertools.islice(one, left)))
            # Not both: two of them may become one.
            if not (keys <= _TEXT_KEYS or (keys == _INT_KEYS and encoding != "bson")):
                return False
            inner = list(itertools.islice(one.values(), left))
        elif kind in _LISTS or (kind is range and encoding != "bson"):
            inner = list(itertools.islice(one, left))
        elif _is_known(one, kind, encoding):
            continue
        else:
            return False
        left -= len(inner)
        if not _SCALARS.issuperset(map(type, inner)):
            deepest = max(depth, deepest)
            waiting.extend((item, depth + 1) for item in inner if type(item) not in _SCALARS)
    return deepest < _DEPTH_SUSPECTED or not _is_deep(value)


def _is_deep(value: Any) -> bool:
    """Whether one of its first lists and dicts is nested deeper than NATIVE_DEPTH_MAX."""
    left, outer = _DEEP_LOOKED_AT, [iter((value,))]
    while outer and left:
        left -= 1
        if len(outer) > NATIVE_DEPTH_MAX + 1:
            return True
        for one in outer[-1]:
            kind = type(one)
            if kind in _DICTS or kind in _LISTS:
                outer.append(iter(one.values() if kind in _DICTS else one))
                break
        else:
            outer.pop()
    return False


def _is_known(value: Any, kind: type, encoding: str) -> bool:
    """Whether bson has a type for the value, or it is an array of numbers or texts."""
    if encoding == "bson" and (is_of_bson(kind) or known_name(kind) == "datetime"):
        return True
    if not callable(getattr(kind, "tolist", None)):
        return False
    try:
        # Tensors of torch have a dtype without a kind. Objects and times have to be looked at.
        if getattr(value.dtype, "kind", "f") in "OmMV":
            return False
        return not hasattr(kind, "to_dict") or not _is_labelled(value)
    except AttributeError:
        return kind.__module__ == "array"
    except Exception:  # noqa: BLE001 - whatever the user's own type does
        return False


def _is_labelled(value: Any) -> bool:
    from . import library_values

    return library_values.is_labelled(value)
