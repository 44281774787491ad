"""json | bson | msgpack as HKube frames them on the socket, on the parent's side; no I/O.

The parent never decodes a payload: `command_of` finds the command in the first bytes of a message, and
the message travels on as it came. What it does decode and encode itself is small.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from ..sandbox import codec

#: The parent decodes a message itself only up to this size, in bytes.
SMALL = 1024 * 1024
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


def ids_of(encoding: str, data: bytes) -> dict[str, str] | None:
    """Return the names in a small `initialize` without decoding its payload; None where that is not plain.

    Of 4 KiB of json: 3 µs, where the round trip to the child, which decodes anyway, costs 80.
    """
    try:
        return _decoder_of_ids(encoding)(data)
    except Exception:  # noqa: BLE001 - whatever a library says of foreign bytes: the child decodes them, and tells
        return None


_NAMES = ("taskId", "jobId", "nodeName", "algorithmName", "pipelineName")


@functools.cache
def _decoder_of_ids(encoding: str) -> Callable[[bytes], dict[str, str] | None]:
    """Return what finds the names in a message of this encoding."""
    import msgspec  # late: see accelerate()

    types: list[Any] = [(name, str | None, None) for name in _NAMES]
    names: Any = msgspec.defstruct("Names", types)

    def told(found: Any) -> dict[str, str]:
        values = ((name, getattr(found, name)) for name in _NAMES)
        return {name: value[:1000] for name, value in values if value is not None}

    if encoding == "bson":
        raw = _raw_bson_decoder()

        def of_bson(data: bytes) -> dict[str, str]:
            document = raw(data)["data"]["data"]
            return told(msgspec.convert({name: document.get(name) for name in _NAMES}, names))

        return of_bson
    message: Any = msgspec.defstruct("Initialize", [("data", names)])
    kind: Any = msgspec.json if encoding == "json" else msgspec.msgpack
    decode = kind.Decoder(message).decode
    return lambda data: told(decode(data).data)


def _raw_bson_decoder() -> Callable[[bytes], Any]:
    """Return what decodes the top of a document: what is nested below stays bytes until it is asked for."""
    import bson  # only for those who speak it
    from bson.codec_options import CodecOptions
    from bson.raw_bson import RawBSONDocument

    options: Any = CodecOptions(document_class=RawBSONDocument)
    return lambda data: bson.decode(data, options)


def accelerate(encoding: str) -> None:
    """Import what makes messages fast: msgspec takes 15 to 30 ms, when there is a pause for it."""
    codec.accelerate()
    _decoder_of_ids(encoding)


def decode(encoding: str, data: bytes | memoryview) -> Any:
    """Return a small message. Raises ValueError for bytes that are none of this encoding."""
    return codec.decode(encoding, data)


def encode(encoding: str, message: dict[str, Any]) -> bytes:
    """Return a message of ours, ready for the wire."""
    return codec.encode(encoding, message, name="message")
