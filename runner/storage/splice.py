"""Puts encoded values into a message as they are; the containers around them are written here."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from .encoded_value import EncodedValue, encode_plain
from .file_region import Bytes


class Filled:
    """A list or dict that holds an EncodedValue, or another Filled; everything else in it is plain."""

    __slots__ = ("items",)

    def __init__(self, items: list[Any] | dict[str, Any]) -> None:
        self.items = items


def as_filled(value: Any) -> Any:
    """Return a list or dict as one that may hold encoded values."""
    return Filled(value) if isinstance(value, (list, dict)) else value


def fill(value: Any, found: Callable[[str], Any]) -> Any:
    """Return the value with each text replaced by found(text), unless that is the text itself.

    What holds a replaced text becomes a Filled; the rest stays as it is.
    """
    if isinstance(value, str):
        return found(value)
    if isinstance(value, dict):
        filled: Any = {key: fill(one, found) for key, one in value.items()}
        is_changed = any(filled[key] is not value[key] for key in value)
    elif isinstance(value, list):
        filled = [fill(one, found) for one in value]
        is_changed = any(new is not old for new, old in zip(filled, value, strict=True))
    else:
        return value
    return Filled(filled) if is_changed else value


#: The largest integer of each encoding.
INT_MAX = {"json": 2**64 - 1, "msgpack": 2**64 - 1, "bson": 2**63 - 1}


def pieces_of(encoding: str, message: dict[str, Any]) -> list[Bytes]:
    """Return the message encoded, in pieces; its values may be Filled or EncodedValue, in this encoding."""
    pieces: list[Bytes] = []
    whole = Filled(dict(message))
    if encoding == "bson":
        _add_bson_document([("data", whole)], pieces)
    elif encoding == "json":
        _add_json(whole, pieces)
    else:
        _add_msgpack(whole, pieces)
    return pieces


def _in_runs(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any, bool]]:
    """Yield (key, value, False) for each encoded or filled value, and (None, a dict, True) for the plain ones
    that follow each other: they are encoded together."""
    plain: dict[Any, Any] = {}
    for key, one in items:
        if not isinstance(one, (EncodedValue, Filled)):
            plain[key] = one
            continue
        if plain:
            yield None, plain, True
            plain = {}
        yield key, one, False
    if plain:
        yield None, plain, True


def _encoded(encoding: str, value: Any) -> bytes:
    """Return a value encoded that came in another encoding, which may have other numbers."""
    try:
        return encode_plain(encoding, value)
    except (TypeError, OverflowError):  # an Int64 of bson, or an integer that has too many digits
        return encode_plain(encoding, _with_plain_numbers(value, INT_MAX[encoding]))


def _with_plain_numbers(value: Any, most: int) -> Any:
    if isinstance(value, dict):
        return {key: _with_plain_numbers(one, most) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_plain_numbers(one, most) for one in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if -(2**63) <= value <= most:
        return int(value)
    try:
        return float(value)  # as in JavaScript, which writes 1e20 with all its digits
    except OverflowError:
        return math.inf if value > 0 else -math.inf


# ---- msgpack


def _add_msgpack(value: Any, pieces: list[Bytes]) -> None:
    if isinstance(value, EncodedValue):
        if value.is_raw:
            pieces.append(_msgpack_bytes_head(len(value.data)))
        pieces.append(value.data)
    elif isinstance(value, Filled):
        items = value.items
        if isinstance(items, dict):
            pieces.append(_msgpack_head(len(items), 0x80, 0xDE))
            for key, one, is_plain in _in_runs(items.items()):
                if is_plain:
                    head = _msgpack_head(len(one), 0x80, 0xDE)
                    pieces.append(_encoded("msgpack", one)[len(head) :])
                else:
                    pieces.append(msgspec.msgpack.encode(key))
                    _add_msgpack(one, pieces)
        else:
            pieces.append(_msgpack_head(len(items), 0x90, 0xDC))
            for one in items:
                _add_msgpack(one, pieces)
    else:
        pieces.append(_encoded("msgpack", value))


def _msgpack_head(count: int, small: int, large: int) -> bytes:
    if count < 16:
        return bytes((small | count,))
    return struct.pack(">BH", large, count) if count < 65536 else struct.pack(">BI", large + 1, count)


def _msgpack_bytes_head(size: int) -> bytes:
    if size < 256:
        return bytes((0xC4, size))
    return struct.pack(">BH", 0xC5, size) if size < 65536 else struct.pack(">BI", 0xC6, size)


# ---- json


def _add_json(value: Any, pieces: list[Bytes]) -> None:
    if isinstance(value, EncodedValue):
        # JSON has no bytes: they become base64 text, as in a result.
        pieces.append(encode_plain("json", bytes(value.data)) if value.is_raw else value.data)
    elif isinstance(value, Filled):
        is_dict = isinstance(value.items, dict)
        pieces.append(b"{" if is_dict else b"[")
        for number, one in enumerate(value.items):
            if number:
                pieces.append(b",")
            if isinstance(value.items, dict):
                pieces.append(msgspec.json.encode(str(one)) + b":")
                _add_json(value.items[one], pieces)
            else:
                _add_json(one, pieces)
        pieces.append(b"}" if is_dict else b"]")
    else:
        pieces.append(_encoded("json", value))


# ---- bson


def _add_bson_document(elements: list[tuple[str, Any]], pieces: list[Bytes]) -> int:
    """Add a document; return its size, which stands at its beginning and is known at its end."""
    at = len(pieces)
    pieces.append(b"")
    size = 5
    for key, one, is_plain in _in_runs(elements):
        if is_plain:
            pieces.append(_encoded("bson", one)[14:-2])  # of the document {data: one}
            size += len(pieces[-1])
        else:
            size += _add_bson_element(key, one, pieces)
    pieces[at] = struct.pack("<i", size)
    pieces.append(b"\0")
    return size


def _add_bson_element(key: str, value: EncodedValue | Filled, pieces: list[Bytes]) -> int:
    name = key.encode() + b"\0"
    if isinstance(value, EncodedValue) and value.is_raw:
        head = b"\x05" + name + struct.pack("<iB", len(value.data), 0)
        pieces += [head, value.data]
        return len(head) + len(value.data)
    if isinstance(value, EncodedValue):
        # Of {data: value}: the type, then, behind the name, the value without the document's end.
        head, rest = bytes(value.data[4:5]) + name, value.data[10:-1]
        pieces += [head, rest]
        return len(head) + len(rest)
    is_dict = isinstance(value.items, dict)
    head = (b"\x03" if is_dict else b"\x04") + name
    pieces.append(head)
    if isinstance(value.items, dict):
        elements = [(str(inner), one) for inner, one in value.items.items()]
    else:
        elements = [(str(number), one) for number, one in enumerate(value.items)]
    return len(head) + _add_bson_document(elements, pieces)
