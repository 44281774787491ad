"""Messages in the encoding `socket.io`: JSON, and after it the values of bytes that are placeholders in it.

    JSON with {"_placeholder":true,"num":0} and so on     as socket.io has it
    the bytes of each value, one after the other
    the size of the JSON and of each value, 8 bytes each
    the number of values, 4 bytes
    a null character, which no JSON ends with

A message without values of bytes is its JSON alone. On the wire each part is a packet, so that hkrunner
neither copies nor decodes a message that it passes on (runner/link/socketio.py). Python 3.8 and newer.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from .plain_values import ResultInvalid

Buffer = Union[bytes, bytearray, memoryview]
#: Newer parsers of socket.io 2 close the connection above this (socket.io-parser 3.4.5, maxAttachments).
MOST = 10
_END = b"\0"
_TAIL = struct.Struct("<IB")
_MARK = b'"_placeholder":true'


def joined(text: bytes, values: List[Buffer]) -> List[Buffer]:
    """Return a message in pieces: its JSON, and the values that belong into it."""
    if not values:
        return [text]
    sizes = [len(text), *map(len, values)]
    return [text, *values, struct.pack(f"<{len(sizes)}Q", *sizes) + _TAIL.pack(len(values), 0)]


def sizes_of(size: int, read: Callable[[int, int], bytes], most: Optional[int] = None) -> List[int]:
    """Return the size of the JSON, and of each value, in a message of this size.

    read(offset, length) returns a part of it. `most`: largest number of values. Raises ValueError if the
    sizes cannot be right.
    """
    if size < _TAIL.size or read(size - 1, 1) != _END:
        return [size]
    count, _ = _TAIL.unpack(read(size - _TAIL.size, _TAIL.size))
    if most is not None and count > most:
        raise ValueError(f"it has {count:,} values of bytes; at most {most} are sent")
    begin = size - _TAIL.size - 8 * (count + 1)
    if begin < 0:
        raise ValueError("its attachments are cut")
    sizes = list(struct.unpack(f"<{count + 1}Q", read(begin, 8 * (count + 1))))
    if sum(sizes) != begin:
        raise ValueError("its attachments are cut")
    return sizes


def decode(data: Buffer, decode_json: Callable[[Buffer], Any]) -> Any:
    """Return the message, with bytes where the placeholders were. Raises ValueError."""
    view = memoryview(data)
    sizes = sizes_of(len(view), lambda offset, length: bytes(view[offset : offset + length]))
    message = decode_json(view[: sizes[0]] if len(sizes) > 1 else data)
    if len(sizes) == 1:
        return message
    values, at = [], sizes[0]
    for size in sizes[1:]:
        values.append(bytes(view[at : at + size]))
        at += size
    todo: List[Any] = [message]
    while todo:
        one = todo.pop()
        for key, inner in list(one.items()) if type(one) is dict else enumerate(one):
            kind = type(inner)
            if kind is dict and inner.get("_placeholder") is True:
                number = inner.get("num")
                if type(number) is not int or not 0 <= number < len(values):
                    raise ValueError(f"it has no attachment no. {number}")
                one[key] = values[number]
            elif kind is dict or kind is list:
                todo.append(inner)
    return message


def encode_pieces(message: Dict[str, Any], foreign: Callable[[Any], Any]) -> List[Buffer]:
    """Return the message in pieces: the values of bytes are not copied.

    foreign(value) returns what JSON has instead of a value of another type, or raises. Raises ResultInvalid.
    """
    values: List[Buffer] = []

    def placeholder(value: Any) -> Any:
        if not isinstance(value, (bytes, bytearray)):
            return foreign(value)
        values.append(value)
        return {"_placeholder": True, "num": len(values) - 1}

    encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=placeholder)
    text = encoder.encode(message).encode()
    if len(values) > MOST:
        raise ResultInvalid(
            f"{len(values):,} values of bytes are too many for a message over socket.io, which has at most"
            f" {MOST}: join them"
        )
    if values and text.count(_MARK) != len(values):
        raise ResultInvalid("a message over socket.io that has bytes can have no key '_placeholder'")
    return joined(text, values)


def split(size: int, read: Callable[[int, int], bytes]) -> List[Tuple[int, int]]:
    """Return where the JSON and each value begins and its size. Raises ValueError.

    The message is the child's: that it has few values is not believed.
    """
    parts, at = [], 0
    for one in sizes_of(size, read, MOST):
        parts.append((at, one))
        at += one
    return parts
