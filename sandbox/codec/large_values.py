"""An answer in pieces: large binary values go to the wire from where they lie, not through an encoder.

An encoder copies a value into a buffer that grows, and the buffer into bytes: for 99 MB in fresh memory
that took longer than the network (measured: bson 142 ms, msgpack 86 ms; the pieces 32 ms). So the containers
around a large value are written here, and what is small in them by the encoder. Python 3.8 and newer.
"""

from __future__ import annotations

import struct
from typing import Any, Callable, Dict, List, Optional, Union

Buffer = Union[bytes, bytearray, memoryview]
Encode = Callable[[Any], bytes]
#: Binary values from here on stay where they are.
LARGE = 256 * 1024
#: At most this many values are looked at; a structure with more has its weight in them.
_LOOKED_AT = 1000
_DEPTH = 30


def large_within(value: Any) -> bool:
    """Whether a plain dict, list or tuple holds a large binary value, and can be written in pieces."""
    left = _LOOKED_AT
    found = False
    todo = [(value, 0)]
    while todo:
        one, depth = todo.pop()
        left -= 1
        kind = type(one)
        if left < 0 or depth > _DEPTH:
            return False
        if (kind is dict or kind is list or kind is tuple) and len(one) > left:
            return False  # before any of them is looked at: there may be millions
        if kind is bytes or kind is bytearray:
            found = found or len(one) >= LARGE
        elif kind is dict:
            if not all(type(key) is str and "\0" not in key for key in one):
                return False
            todo.extend((inner, depth + 1) for inner in one.values())
        elif kind is list or kind is tuple:
            todo.extend((inner, depth + 1) for inner in one)
    return found


def is_large(value: Any, most: int = 1000) -> bool:
    """Whether the value has many items or 256 KiB of text, judged by the first ones."""
    left, size, waiting = most, 0, [value]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if kind is str:
            size += len(one)
        elif kind in (list, tuple, dict):
            left -= len(one)
            if left >= 0:
                waiting.extend(one.values() if kind is dict else one)
        elif hasattr(kind, "__len__"):
            return True  # an array or a data frame: its library took longer to import
        if left < 0 or size >= LARGE:
            return True
    return False


def _has_large(value: Any) -> bool:
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return len(value) >= LARGE
    if kind is dict:
        return any(_has_large(one) for one in value.values())
    return (kind is list or kind is tuple) and any(_has_large(one) for one in value)


def size_of(pieces: List[Buffer]) -> int:
    """Return the number of bytes of all pieces."""
    return sum(len(one) for one in pieces)


# ---- bson: each document and array begins with its size


def bson(value: Any, encode: Encode) -> List[Buffer]:
    """Return HKube's document {data: value}; `encode` makes one of a dict."""
    return _joined(_document({"data": value}, encode))


def _document(value: Dict[str, Any], encode: Encode) -> List[Buffer]:
    pieces: List[Buffer] = []
    small: Dict[str, Any] = {}
    for name, one in value.items():
        if not _has_large(one):
            small[name] = one
            continue
        if small:
            pieces.append(_elements(small, encode))
            small = {}
        key = name.encode() + b"\0"
        if type(one) is dict:
            pieces += [b"\x03" + key, *_document(one, encode)]
        elif type(one) is list or type(one) is tuple:
            pieces += [b"\x04" + key, *_document({str(at): item for at, item in enumerate(one)}, encode)]
        else:
            pieces += [b"\x05" + key + struct.pack("<iB", len(one), 0), one]
    if small:
        pieces.append(_elements(small, encode))
    return [struct.pack("<i", size_of(pieces) + 5), *pieces, b"\0"]


def _elements(value: Dict[str, Any], encode: Encode) -> Buffer:
    return memoryview(encode(value))[4:-1]


# ---- msgpack: each map and array begins with its count


def msgpack(value: Any, encode: Encode) -> List[Buffer]:
    """Return the value; `encode` makes msgpack of any value."""
    return _joined(_value(value, encode))


def _value(value: Any, encode: Encode) -> List[Buffer]:
    if not _has_large(value):
        return [encode(value)]
    if type(value) is dict:
        pieces: List[Buffer] = [_counted(len(value), 0x80, 0xDE)]
        for name, one in value.items():
            pieces += [encode(name), *_value(one, encode)]
        return pieces
    if type(value) is list or type(value) is tuple:
        return [_counted(len(value), 0x90, 0xDC), *(piece for one in value for piece in _value(one, encode))]
    return [struct.pack(">BI", 0xC6, len(value)), value]


def _counted(count: int, few: int, many: int) -> bytes:
    if count < 16:
        return bytes([few | count])
    return struct.pack(">BH", many, count) if count < 65536 else struct.pack(">BI", many + 1, count)


def _joined(pieces: List[Buffer]) -> List[Buffer]:
    """Return the pieces with all that lies between two large ones joined."""
    joined: List[Buffer] = []
    small: List[Buffer] = []
    for piece in pieces:
        if len(piece) < LARGE:
            small.append(piece)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(piece)
    return [*joined, b"".join(small)] if small else joined


def socketio(message: Dict[str, Any], foreign: Callable[[Any], Any]) -> List[Buffer]:
    """Return the message; foreign(value) returns what JSON has instead."""
    from . import attachments  # late: hardly any worker speaks socket.io

    return attachments.encode_pieces(message, foreign)


WRITERS: Dict[str, Callable[[Any, Encode], List[Buffer]]] = {
    "bson": bson,
    "msgpack": msgpack,
    "socket.io": socketio,
}


def of(encoding: str, value: Any, encode: Encode) -> Optional[List[Buffer]]:
    """Return the value in pieces; None where the encoder alone does as well.

    `encode` makes a document of a dict under bson, and msgpack of any value under msgpack.
    """
    writer = WRITERS.get(encoding)
    if writer is None or not large_within(value):
        return None
    return writer(value, encode)
