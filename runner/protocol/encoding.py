"""json | bson | msgpack as HKube frames them on the socket, on the parent's side; no I/O.

The parent never decodes a payload: `command_of` finds the command in the first bytes of a message, and
the message travels on as it came. What it does decode and encode itself is small.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

from ...sandbox.codec import codec

#: In a message up to this size the names are found at once; for a larger one the child tells them.
NAMES_MAX = 8192
_HEAD = 256
_JSON_HEAD = re.compile(rb'\s*\{\s*"command"\s*:\s*"([A-Za-z]{1,64})"\s*[,}]')
_BSON_HEAD = re.compile(
    rb"....\x03data\x00....\x02command\x00(?:[\x00-\x41]\x00\x00\x00)([A-Za-z]{1,64})\x00", re.DOTALL
)
_MSGPACK_HEAD = re.compile(rb"[\x81-\x8f]\xa7command(?:[\xa0-\xbf]|\xd9.)([A-Za-z]{1,64})", re.DOTALL)
_HEADS = {"json": _JSON_HEAD, "bson": _BSON_HEAD, "msgpack": _MSGPACK_HEAD}


def is_text(encoding: str) -> bool:
    """The encoding travels in text frames."""
    return encoding == "json"


def command_of(encoding: str, head: bytes | memoryview, whole: Any) -> str:
    """Return the command of a message; raises ValueError if it has none.

    `head` is its first bytes (256 are enough), `whole` a callable that returns all of it for the case
    that the command does not stand first (another worker may order its keys as it likes).
    """
    data = bytes(head[:_HEAD])
    match = _HEADS[encoding].match(data)
    # A name that runs into the end of the head may be cut.
    if match is not None and match.end() < len(data) + (len(data) < _HEAD):
        name = match.group(1)
        if encoding == "msgpack":
            name = _msgpack_name(data)
        if name:
            return name.decode()
    message = codec.decode(encoding, whole())
    command = message.get("command") if isinstance(message, dict) else None
    if not isinstance(command, str):
        raise ValueError("the message has no command")
    return command


def _msgpack_name(data: bytes) -> bytes:
    """In msgpack the length of the text is told, not its end."""
    at = 9
    length = data[at] & 0x1F if data[at] != 0xD9 else data[at + 1]
    begin = at + 1 if data[at] != 0xD9 else at + 2
    return data[begin : begin + length] if begin + length <= len(data) else b""


def ids_of(encoding: str, data: bytes | memoryview) -> dict[str, str] | None:
    """Return the names in an `initialize` without decoding its payload; None where that is not plain.

    Of 4 KiB of json: 30 µs, where the round trip to the child, which decodes anyway, costs 80.
    """
    found: dict[str, str] = {}
    try:
        top = _top_of(encoding, len(data) > NAMES_MAX)(data)
        for name in _NAMES:
            value = top.get(name)
            if value is not None:
                found[name] = value[:1000]
                if type(value) is not str:
                    return None
    except Exception:  # noqa: BLE001 - whatever a library says of foreign bytes: the child decodes them, and tells
        return None
    return found


_NAMES = ("taskId", "jobId", "nodeName", "algorithmName", "pipelineName")


@functools.cache
def _top_of(encoding: str, large: bool) -> Callable[[Any], Any]:
    """Return what decodes `data` of a message, as far as its names; `large`: nothing else of it is made."""
    if encoding == "json" and not large:
        # msgspec would skip the input: 50 µs less of 8 KiB, and 2.5 MB more for as long as we live.
        decode = json.JSONDecoder().decode  # json.loads() looks for the kind of UTF first
        return lambda wire: decode(wire.decode())["data"]
    if encoding in ("json", "msgpack"):
        import msgspec

        types: list[Any] = [(name, str | None, None) for name in _NAMES]
        message = msgspec.defstruct("Initialize", [("data", msgspec.defstruct("Names", types))])
        module = msgspec.json if encoding == "json" else msgspec.msgpack
        decoder: Any = module.Decoder(message)
        return lambda wire: msgspec.structs.asdict(decoder.decode(wire).data)
    import bson
    from bson.codec_options import CodecOptions
    from bson.raw_bson import RawBSONDocument

    # What is nested below the top stays bytes until it is asked for.
    options: Any = CodecOptions(document_class=RawBSONDocument)
    return lambda wire: bson.decode(wire, options)["data"]["data"]


def decode(encoding: str, data: bytes | memoryview) -> Any:
    """Return a small message. Raises ValueError for bytes that are none of this encoding."""
    return codec.decode(encoding, data)


def encode(encoding: str, message: dict[str, Any]) -> bytes:
    """Return a message of ours, ready for the wire; what the encoding cannot carry is put as text.

    An answer must not be lost for a character in a file's name.
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
