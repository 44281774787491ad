"""A value in its encoded form: its header, its parts and its kind are found without decoding it.

HKube's storage holds a value as 8 bytes of header and the encoded value; services of HKube leave the header
out. Under bson the value is wrapped in a document `{data: value}`, since bson has no other values than
documents. Bytes (type 01) are stored as they are.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from ...sandbox.codec import DONE_JSON, codec, unreadable
from ...sandbox.codec.codec import Buffer
from ..protocol import bson_reader
from .errors import ObjectInvalid

HEADER_SIZE = 8
_MAGIC = b"HK"
_VERSION = 1
_RAW, _ENCODED = 1, 2
_ENCODINGS = {1: "bson", 2: "json", 3: "msgpack"}
_NUMBERS = {name: number for number, name in _ENCODINGS.items()}
#: The document {data: value}: its length, the type of the value, the name.
_BSON_NAME = b"data\0"
_BSON_VALUE_AT = 4 + 1 + len(_BSON_NAME)
#: The names that HKube's Python wrapper has for kinds of values. Its driver looks for "array".
_BSON_KINDS = {
    **{0x01: "float", 0x02: "str", 0x03: "object", 0x04: "array", 0x05: "bytes", 0x08: "bool"},
    **{0x09: "datetime", 0x0A: "NoneType", 0x10: "int", 0x12: "int"},
}


class EncodedValue(NamedTuple):
    """A value in one of HKube's encodings; `encoding` is "" for bytes that are the value themselves.

    Where its data is a FileRegion, it can only be put into a message.
    """

    encoding: str
    data: Any  #: a Buffer, or a FileRegion

    @property
    def is_raw(self) -> bool:
        """Whether the value is these bytes themselves."""
        return self.encoding == ""

    def header(self, encoding: str) -> bytes:
        """Return the header for storage; `encoding`: what the storage is set to, for the header of bytes."""
        kind = _RAW if self.is_raw else _ENCODED
        return bytes((_VERSION, HEADER_SIZE, kind, _NUMBERS[self.encoding or encoding], 0, 0)) + _MAGIC


def is_header(data: Buffer) -> bool:
    """Whether an object that begins like this has a header."""
    return len(data) == HEADER_SIZE and bytes(data[6:]) == _MAGIC


def value_of(header: Buffer | None, data: Any, encoding: str, name: str) -> EncodedValue:
    """Return the value of an object; `encoding`: of one without a header. `name`: of the object, for errors.

    Raises ObjectInvalid where header or bytes cannot be a value.
    """
    if header is None:
        return EncodedValue(encoding, data)
    version, size, kind, number = bytes(header[:4])
    if version != _VERSION or size != HEADER_SIZE or kind not in (_RAW, _ENCODED):
        raise ObjectInvalid(f"{name} has a header of an unknown form: {bytes(header).hex(' ')}")
    if kind == _RAW:
        return EncodedValue("", data)
    if number not in _ENCODINGS:
        raise ObjectInvalid(f"the header of {name} names an unknown encoding: {bytes(header).hex(' ')}")
    return EncodedValue(_ENCODINGS[number], data)


def check(value: EncodedValue, name: str, *, decodes: bool = False) -> None:
    """Raise ObjectInvalid unless the bytes are exactly one value of their encoding.

    The value is put into a message between others: one that is cut, or followed by more, would shift them.
    `decodes`: also for what is found only when a value is decoded, such as a text that is no UTF-8.
    """
    try:
        if value.encoding == "bson":
            _check_bson(value.data)
        elif value.encoding:
            _raw_decoder(value.encoding).decode(value.data)
        if decodes:
            decode(value)
    except (ValueError, msgspec.MsgspecError) as error:
        why = unreadable.why(error, f"is not {value.encoding}")
        raise ObjectInvalid(f"{name} ({len(value.data):,} bytes) {why}") from None
    except RecursionError:
        raise ObjectInvalid(f"{name} ({len(value.data):,} bytes) is nested too deep") from None


def _check_bson(data: Any) -> None:
    if len(data) < _BSON_VALUE_AT + 1:
        raise ValueError("too short for a document")
    head = bytes(data[:_BSON_VALUE_AT])
    (size,) = struct.unpack_from("<i", head)
    if size != len(data) or bytes(data[-1:]) != b"\0":
        raise ValueError(f"the document says that it has {size:,} bytes")
    if head[5:] != _BSON_NAME:
        raise ValueError("the document is not {data: …}")


def decode(value: EncodedValue) -> Any:
    """Return the value decoded; only for a small one, or one in another encoding than the storage's."""
    if value.is_raw:
        return bytes(value.data)
    return codec.decode(value.encoding, value.data)


def encode(encoding: str, value: Any, name: str = "value") -> EncodedValue:
    """Return the value encoded; raises codec.ResultInvalid, with this name of the value."""
    if isinstance(value, (bytes, bytearray)):
        return EncodedValue("", value)
    return EncodedValue(encoding, encode_plain(encoding, codec.plain(value, encoding, name)))


def encode_plain(encoding: str, value: Any) -> bytes:
    """Return a value of the encoding's own types encoded: under bson the document {data: value}."""
    if encoding == "bson":
        import bson

        return bytes(bson.encode({"data": value}))
    return msgspec.json.encode(value) if encoding == "json" else msgspec.msgpack.encode(value)


def in_encoding(value: EncodedValue, encoding: str, name: str) -> EncodedValue:
    """Return the same value in this encoding, converted if it is in another one."""
    if value.encoding in ("", encoding):
        return value
    try:
        return encode(encoding, decode(value), name)
    except (ValueError, codec.ResultInvalid) as error:
        raise ObjectInvalid(f"{name} is {value.encoding}, and cannot be had as {encoding}: {error}") from None


# ---- parts


def part(value: EncodedValue, path: str) -> EncodedValue | None:
    """Return the part of the value at a dotted path; None where there is none, as HKube's wrapper does.

    Raises ObjectInvalid.
    """
    found: Any = value
    with _inside(value.encoding):
        for key in path.split("."):
            found = _child(found, key)
            if found is None:
                return None
    return found  # type: ignore[no-any-return]


@contextlib.contextmanager
def _inside(encoding: str) -> Iterator[None]:
    """Raise ObjectInvalid for what a library raises here: check() does not look at all that is in a value."""
    try:
        yield
    except (ValueError, msgspec.MsgspecError) as error:
        raise ObjectInvalid(f"a part of a value is not {encoding}: {error}") from None


def _child(value: EncodedValue, key: str) -> EncodedValue | None:
    kind = _kind(value)
    if kind not in ("object", "array") or value.is_raw:
        return None
    index = int(key) if key.isdecimal() and len(key) <= 19 else None
    if value.encoding == "bson":
        return _bson_child(value.data, kind, key, index)
    inner = _decoder(value.encoding, kind).decode(value.data)
    if kind == "array":
        found = inner[index] if index is not None and index < len(inner) else None
    else:
        found = inner.get(key)
        if found is None and index is not None:
            found = inner.get(index)
    return None if found is None else EncodedValue(value.encoding, memoryview(found))


def _bson_child(data: Buffer, kind: str, key: str, index: int | None) -> EncodedValue | None:
    if kind == "object":
        return _bson_part(data, bson_reader.values(data, _BSON_VALUE_AT).get(key.encode()))
    if index is None or index >= len(data):
        return None
    if bson_reader.holds_documents(data, _BSON_VALUE_AT):
        return _bson_part(data, next(islice(bson_reader.items(data, _BSON_VALUE_AT), index, None), None))
    found = codec.decode("bson", data)
    item = found[index] if index < len(found) else None
    return None if item is None else EncodedValue("bson", encode_plain("bson", item))


def _bson_part(data: Buffer, value: bson_reader.BsonValue | None) -> EncodedValue | None:
    if value is None or value.kind == bson_reader.NULL:
        return None
    return EncodedValue("bson", bson_document(bytes((value.kind,)), data[value.begin : value.end]))


def describe(value: EncodedValue) -> tuple[str, int | None]:
    """Return the kind of the value, and the number of its items if it is an array. Raises ObjectInvalid."""
    kind = _kind(value)
    if kind != "array":
        return kind, None
    if value.encoding == "msgpack":
        return _describe_msgpack(value.data)
    with _inside(value.encoding):
        if value.encoding == "json":
            return kind, len(_decoder("json", kind).decode(value.data))
        if bson_reader.holds_documents(value.data, _BSON_VALUE_AT):
            return kind, bson_reader.count_documents(bytes(value.data), _BSON_VALUE_AT)
        return kind, len(codec.decode("bson", value.data))


def _kind(value: EncodedValue) -> str:
    if value.is_raw:
        return "bytes"
    if value.encoding == "bson":
        return _BSON_KINDS.get(value.data[4], "object")
    if value.encoding == "msgpack":
        return _describe_msgpack(value.data)[0]
    text = bytes(value.data[:64]).lstrip()
    starts = (
        (b"[", "array"),
        (b"{", "object"),
        (b'"', "str"),
        (b"n", "NoneType"),
        (b"t", "bool"),
        (b"f", "bool"),
    )
    for start, kind in starts:
        if text.startswith(start):
            return kind
    return "float" if any(mark in text for mark in b".eE") else "int"


def _describe_msgpack(data: Buffer) -> tuple[str, int | None]:
    first = data[0]
    if 0x90 <= first <= 0x9F:
        return "array", first & 0x0F
    if first == 0xDC:
        return "array", int.from_bytes(data[1:3], "big")
    if first == 0xDD:
        return "array", int.from_bytes(data[1:5], "big")
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        return "object", None
    if 0xA0 <= first <= 0xBF or 0xD9 <= first <= 0xDB:
        return "str", None
    if first in (0xC2, 0xC3):
        return "bool", None
    if first in (0xCA, 0xCB):
        return "float", None
    if 0xC4 <= first <= 0xC6:
        return "bytes", None
    return ("NoneType" if first == 0xC0 else "int"), None


@functools.cache
def _raw_decoder(encoding: str) -> Any:
    return (msgspec.json if encoding == "json" else msgspec.msgpack).Decoder(msgspec.Raw)


@functools.cache
def _decoder(encoding: str, kind: str) -> Any:
    """Return a decoder of the outermost level, which leaves what is in it as bytes."""
    key: Any = str if encoding == "json" else Any  # HKube's wrapper for Python sends keys of any type
    shape: Any = list[msgspec.Raw] if kind == "array" else dict[key, msgspec.Raw]
    return (msgspec.json if encoding == "json" else msgspec.msgpack).Decoder(shape)


# ---- a result in the child's `done`


_DONE_HEADS = {
    "json": DONE_JSON,
    "msgpack": b"\x82\xa7command\xa4done\xa4data",
}
#: bson's {data: {command: "done", data: …}} up to the type of the result, without the two lengths.
_BSON_DONE_HEAD = (b"\x03data\0", b"\x02command\0\x05\0\0\0done\0")
_BSON_DONE_AT = 32
#: Bytes of a value of bson, by its type; what is added where the value begins with its length.
_BSON_SIZES = {0x01: 8, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x12: 8}
_BSON_ADDED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5}


def result_of(encoding: str, wire: Buffer) -> tuple[EncodedValue, Buffer]:
    """Return the result in a child's `done`, and the part of `wire` that goes to storage as it is.

    A bson value is that part behind four more bytes, the length of its document (`bson_length()`). Only a
    program may write the message in another way than hkrunner does: it is decoded then. Raises ObjectInvalid.
    """
    view = memoryview(wire)
    if encoding == "bson":
        return _bson_result(view) or _foreign_result(encoding, wire)
    head = _DONE_HEADS[encoding]
    if bytes(view[: len(head)]) != head:
        return _foreign_result(encoding, wire)
    data = view[len(head) :] if encoding == "msgpack" else view[len(head) : -1]
    if encoding == "msgpack" and 0xC4 <= data[0] <= 0xC6:
        raw = data[2 if data[0] == 0xC4 else 3 if data[0] == 0xC5 else 5 :]
        return EncodedValue("", raw), raw
    return EncodedValue(encoding, data), data


def _bson_result(view: memoryview) -> tuple[EncodedValue, Buffer] | None:
    """Return the result, None where the document has another form."""
    rest = view[_BSON_DONE_AT:-1]
    head = (bytes(view[4:10]), bytes(view[14:_BSON_DONE_AT]))
    if head != _BSON_DONE_HEAD or bytes(rest[1 : 1 + len(_BSON_NAME)]) != _BSON_NAME:
        return None
    size = _BSON_SIZES.get(rest[0])
    if size is None and rest[0] in _BSON_ADDED and len(rest) >= 10:
        size = _BSON_ADDED[rest[0]] + int.from_bytes(rest[6:10], "little")
    if size is None or len(rest) != 6 + size + 1:  # something follows the result, or its type is a rare one
        return None
    if rest[0] == 0x05 and rest[10] == 0:  # binary, of the generic kind
        raw = rest[11:-1]
        return EncodedValue("", raw), raw
    return EncodedValue("bson", rest), rest


def _foreign_result(encoding: str, wire: Buffer) -> tuple[EncodedValue, Buffer]:
    try:
        value = encode(encoding, codec.decode(encoding, wire).get("data"), "the result")
    except (ValueError, AttributeError, codec.ResultInvalid) as error:
        raise ObjectInvalid(f"the algorithm's process sent a `done` of an unknown form: {error}") from None
    if value.encoding != "bson":
        return value, value.data
    rest = memoryview(value.data)[4:]
    return EncodedValue("bson", rest), rest


def bson_document(kind: bytes, value: Buffer) -> bytes:
    """Return the document {data: value} for a value of this type, as it is in another document."""
    return b"".join(bson_pieces(kind, value))


def bson_pieces(kind: bytes, value: Buffer) -> list[Buffer]:
    """Return the same document in pieces, of which the value is one."""
    size = 4 + len(kind) + len(_BSON_NAME) + len(value) + 1
    return [struct.pack("<i", size), kind, _BSON_NAME, value, b"\0"]


def bson_length(rest: Buffer) -> bytes:
    """Return the beginning of a bson document that continues with these bytes."""
    return struct.pack("<i", len(rest) + 4)
