"""Reads what a program sends, as far as hkrunner needs to: checked as a whole, its payload not decoded.

HKube's worker ends at a message that it cannot decode, so each is checked here first. For json and msgpack
msgspec skips over the payload while it checks it (100 MB of json in 90 ms). bson has no such check: a message
below BLOB_MIN is decoded, and so is a list without documents, which takes no time; of any other larger one
only the two outermost documents are looked at.
"""

from __future__ import annotations

import codecs
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...sandbox.codec import codec
from ..link.frames import BLOB_MIN
from ..protocol import bson_reader

_UTF8_STEP = 256 * 1024
#: First bytes of a map in msgpack, besides those of a small one (0x80 to 0x8f).
_MSGPACK_MAPS = (0xDE, 0xDF)


class ProgramMessage(NamedTuple):
    """One message of a program."""

    command: str
    data_json: bytes | memoryview | None  #: its payload as JSON text, in the encoding json; else None
    data_is_object: bool
    has_error: bool  #: whether it has the field `error`, which makes a `done` a failure


def read(encoding: str, wire: bytes | memoryview, *, is_ascii: bool = False) -> ProgramMessage:
    """Return the message. Raises ValueError when HKube's worker could not decode it, or finds no command.

    `is_ascii`: all bytes are known to be ASCII.
    """
    try:
        return _read(encoding, wire, is_ascii)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _read(encoding: str, wire: bytes | memoryview, is_ascii: bool) -> ProgramMessage:
    if encoding == "bson":
        return _of_bson(wire)
    if encoding == "json" and not is_ascii:
        _check_utf8(wire)
    import msgspec  # late: only a run with a program needs it

    found: Any
    try:
        found = _decoder(encoding)(wire)
    except msgspec.MsgspecError:
        # Python's json accepts a lone surrogate, as JavaScript does, and its errors say what is wrong.
        return _of_decoded(codec.decode(encoding, bytes(wire)), encoding)
    data = memoryview(found.data)
    has_error = memoryview(found.error)[:4].tobytes() not in (b"null", b"\xc0")
    if encoding == "json":
        return ProgramMessage(found.command, data, data[0] == ord("{"), has_error)
    is_map = data[0] & 0xF0 == 0x80 or data[0] in _MSGPACK_MAPS
    return ProgramMessage(found.command, None, is_map, has_error)


def _of_bson(wire: bytes | memoryview) -> ProgramMessage:
    if len(wire) < BLOB_MIN:
        return _of_decoded(codec.decode("bson", wire), "bson")
    values = bson_reader.message_values(wire)
    command, data, failure = (values.get(name) for name in (b"command", b"data", b"error"))
    if command is None or command.kind != bson_reader.TEXT:
        raise ValueError("it has no command")
    kind = None if data is None else data.kind
    if data is not None and kind == bson_reader.TEXT:
        bson_reader.text_of(wire, data)  # raises ValueError for what is no UTF-8
    if data is not None and kind == bson_reader.ARRAY and not bson_reader.holds_documents(wire, data.begin):
        return _of_decoded(codec.decode("bson", wire), "bson")
    has_error = failure is not None and failure.kind != bson_reader.NULL
    return ProgramMessage(bson_reader.text_of(wire, command), None, kind == bson_reader.OBJECT, has_error)


def _of_decoded(message: Any, encoding: str) -> ProgramMessage:
    command = message.get("command") if isinstance(message, Mapping) else None
    if not isinstance(command, str):
        raise ValueError("it has no command")
    data = message.get("data")
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode() if encoding == "json" else None
    return ProgramMessage(command, text, isinstance(data, Mapping), message.get("error") is not None)


@functools.cache
def _decoder(encoding: str) -> Callable[[Any], Any]:
    """Return a decoder that makes no objects of the payload."""
    import msgspec

    module, null = (msgspec.json, b"null") if encoding == "json" else (msgspec.msgpack, b"\xc0")
    raw, absent = msgspec.Raw, msgspec.Raw(null)
    fields: list[Any] = [("command", str), ("data", raw, absent), ("error", raw, absent)]
    decode: Callable[[Any], Any] = module.Decoder(msgspec.defstruct("ProgramMessage", fields)).decode
    return decode


def _check_utf8(wire: bytes | memoryview) -> None:
    """Raise ValueError if it is not UTF-8: a text frame must be (RFC 6455, 8.1)."""
    if isinstance(wire, bytes):
        if not wire.isascii():
            wire.decode()
        return
    decoder, is_amid = codecs.getincrementaldecoder("utf-8")(), False
    for begin in range(0, len(wire), _UTF8_STEP):
        part = bytes(wire[begin : begin + _UTF8_STEP])
        if is_amid or not part.isascii():  # ten times as quick as decoding
            decoder.decode(part)
            is_amid = decoder.getstate()[0] != b""
    decoder.decode(b"", final=True)


# ---- what the worker sends


def input_json(encoding: str, wire: bytes | memoryview) -> bytes | memoryview | None:
    """Return the input in an `initialize` as JSON text; None when it has none, or cannot be read."""
    import msgspec

    try:
        if encoding == "json":
            return memoryview(_input_decoder()(wire).data.input)
        data = codec.data_of(codec.decode(encoding, wire))
        return codec.json_text(data["input"])
    except (
        msgspec.MsgspecError,
        ValueError,
        RecursionError,
    ):  # the program reads it itself, and reports what is wrong with it
        return None


def result_json(encoding: str, wire: bytes | memoryview) -> bytes | None:
    """Return the result in a `done` of an encoding other than json as JSON text; None: it has none."""
    try:
        message = codec.decode(encoding, wire)
        return codec.json_text(message.get("data"))
    except ValueError:
        return None


@functools.cache
def _input_decoder() -> Callable[[Any], Any]:
    import msgspec

    empty = msgspec.Raw(b"[]")
    data = msgspec.defstruct("ProgramTask", [("input", msgspec.Raw, empty)])
    decode: Callable[[Any], Any] = msgspec.json.Decoder(
        msgspec.defstruct("ProgramInitialize", [("data", data)])
    ).decode
    return decode
