"""The parent's side of the encodings, as HKube frames them on the socket; no I/O.

The parent never decodes a payload: `command_of` finds the command in the first bytes of a message, and
the message is forwarded as it came. What the parent decodes and encodes itself is small.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from typing import Any

from ...sandbox.codec import codec, lean_msgspec
from . import bson_reader

#: The parent looks for the names in messages up to this size; in larger ones the child does.
NAMES_MAX = 512 * 1024
#: In messages up to this size the names are found by decoding all: in json without msgspec, in bson sooner
#: than by walking over the values.
_SMALL_MAX = 8192
_HEAD = 256
_JSON_HEAD = re.compile(rb'\s*\{\s*"command"\s*:\s*"([A-Za-z]{1,64})"\s*[,}]')
_BSON_HEAD = re.compile(
    rb"....\x03data\x00....\x02command\x00(?:[\x00-\x41]\x00\x00\x00)([A-Za-z]{1,64})\x00", re.DOTALL
)
_MSGPACK_HEAD = re.compile(rb"[\x81-\x8f]\xa7command(?:[\xa0-\xbf]|\xd9.)([A-Za-z]{1,64})", re.DOTALL)
_HEADS = {"json": _JSON_HEAD, "bson": _BSON_HEAD, "msgpack": _MSGPACK_HEAD, "socket.io": _JSON_HEAD}
#: Those whose messages are JSON; under socket.io attachments may follow it.
_JSONS = ("json", "socket.io")


def is_text(encoding: str) -> bool:
    """Whether the encoding uses text frames."""
    return encoding in _JSONS


def command_of(encoding: str, head: bytes | memoryview, whole: Any) -> str:
    """Return the command of a message; raises ValueError if it has none.

    `head`: its first bytes (256 are enough). `whole`: returns all of it, needed when the command is not the
    first key, which another worker may do.
    """
    match = _HEADS[encoding].match(head, 0, _HEAD)
    # A name that ends with the head may be cut off.
    if match is not None and match.end() < _HEAD:
        name: bytes = match[1] if encoding != "msgpack" else _msgpack_name(bytes(head[:_HEAD]))
        if name:
            return name.decode()
    message = codec.decode(encoding, whole())
    command = message.get("command") if isinstance(message, dict) else None
    if not isinstance(command, str):
        raise ValueError("the message has no command")
    return command


def _msgpack_name(data: bytes) -> bytes:
    """Return the command: in msgpack a length comes before the text, and nothing marks its end."""
    at = 9
    length = data[at] & 0x1F if data[at] != 0xD9 else data[at + 1]
    begin = at + 1 if data[at] != 0xD9 else at + 2
    return data[begin : begin + length] if begin + length <= len(data) else b""


def finds_names_at_once(encoding: str, size: int) -> bool:
    """Whether ids_of() reads a message of this size without importing anything large first."""
    return encoding not in _JSONS or size <= _SMALL_MAX or "msgspec" in sys.modules


def prepare_for_larger(encoding: str) -> None:
    """Import what makes finds_names_at_once() true for every size: 15 ms, and 3 MB for good."""
    _top_of(encoding, True)


def ids_of(encoding: str, data: bytes | memoryview) -> dict[str, str | None] | None:
    """Return the names in an `initialize` without decoding its payload; None when they are not plain text.

    A name that it has not is None.

    For 4 KiB of json this takes 30 µs; with msgspec for 100 KB of json 20 to 70 µs, for 1 MB 230 to 560; for
    bson of any size 20. The round trip to the child takes 80 µs, and the time in which it decodes.
    """
    try:
        top = _top_of(encoding, len(data) > _SMALL_MAX)(data)
        found = [*map(top.get, _NAMES)]
    except Exception:  # noqa: BLE001 - any error of a library for foreign bytes: the child decodes them, and reports
        return None
    if not _TEXT_OR_NONE.issuperset(map(type, found)):
        return None
    if len(data) > NAME_MAX:
        found = [name and name[:NAME_MAX] for name in found]
    return dict(zip(_NAMES, found, strict=True))


_NAMES = ("taskId", "jobId", "nodeName", "algorithmName", "pipelineName")
_TEXT_OR_NONE = frozenset((str, type(None)))
#: A name is cut to so many characters.
NAME_MAX = 1000


@functools.cache
def _top_of(encoding: str, large: bool) -> Callable[[Any], Any]:
    """Return a decoder that gives the names in `data` of a message; `large`: it makes no other objects."""
    if encoding in _JSONS and not large:
        # msgspec would skip the input: that saves 50 µs for 8 KiB, and costs 3 MB of memory for good.
        return _names_in_json
    if encoding != "bson":
        msgspec = lean_msgspec.load()
        types: list[Any] = [(name, str | None, None) for name in _NAMES]
        message = msgspec.defstruct("Initialize", [("data", msgspec.defstruct("Names", types))])
        module = msgspec.msgpack if encoding == "msgpack" else msgspec.json
        decoder: Any = module.Decoder(message)
        return lambda wire: msgspec.structs.asdict(decoder.decode(wire).data)
    if large:
        return _names_in_bson
    import bson

    return lambda wire: bson.decode(wire)["data"]["data"]


_decode_json = json.JSONDecoder().raw_decode  # json.loads() would detect the encoding first


def _names_in_json(wire: bytes | memoryview) -> Any:
    """Return `data` of a message. Raises ValueError."""
    text = str(wire, "utf-8").strip(" \t\r\n")
    message, end = _decode_json(text)
    if end != len(text):
        raise ValueError("something follows the message")
    return message["data"]


def _names_in_bson(wire: bytes | memoryview) -> dict[str, str | None]:
    """Return the names in `data` of a message. Raises ValueError."""
    data = bson_reader.message_values(wire).get(b"data")
    if data is None or data.kind != bson_reader.OBJECT:
        raise ValueError("data is no object")
    values = bson_reader.values(wire, data.begin)
    found = {name: values[key] for name in _NAMES if (key := name.encode()) in values}
    return {
        name: None if value.kind == bson_reader.NULL else bson_reader.text_of(wire, value)
        for name, value in found.items()
    }


def decode(encoding: str, data: bytes | memoryview) -> Any:
    """Return a small message, decoded. Raises ValueError for bytes that are not of this encoding."""
    return codec.decode(encoding, data)


def encode(encoding: str, message: dict[str, Any]) -> bytes:
    """Return a message of hkrunner's own, encoded; values that the encoding cannot carry become text.

    An answer must not be lost because of a character in a file name.
    """
    try:
        return codec.encode(encoding, message, name="message")
    except codec.ResultInvalid:
        return codec.encode(encoding, _tame(message), name="message")


def _tame(value: Any, depth: int = 0) -> Any:
    """Return a copy that every encoding can carry."""
    if depth > codec.DEPTH_MAX // 2:
        return "…"
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_tame(str(key)).replace("\0", "\\0"): _tame(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tame(one, depth + 1) for one in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    return value
