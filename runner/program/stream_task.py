"""Whether the task in an `initialize` is one of a stream, and of which node."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ...sandbox.codec import codec
from ...sandbox.shared.stream_messages import AskStream
from ..protocol import encoding as encodings

#: Largest message that is read here: a task of a stream has a small input.
LOOKED_AT_MAX = 1024 * 1024


def read(encoding: str, wire: bytes | memoryview) -> AskStream | None:
    """Return what the message says of the stream; None: it is no task of a stream."""
    if len(wire) > LOOKED_AT_MAX:
        return None
    try:
        data = _decoder(encoding)(wire)
    except Exception:  # noqa: BLE001 - any error of a library for foreign bytes; the program reads them, too
        return None
    if not isinstance(data, Mapping) or data.get("kind") != "stream":
        return None
    return AskStream(
        job=str(data.get("jobId")),
        node=str(data.get("nodeName")),
        parents=_names(data.get("parents")),
        children=_names(data.get("childs")),
        in_turn=data.get("stateType") == "stateless",
    )


def _names(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


@functools.cache
def _decoder(encoding: str) -> Callable[[bytes | memoryview], Any]:
    """Return a decoder of `data` that makes no objects of the input, where the encoding has one."""
    if encoding == "bson":
        return lambda wire: codec.decode("bson", wire)["data"]
    import msgspec

    names = ("kind", "jobId", "nodeName", "parents", "childs", "stateType")
    data = msgspec.defstruct("StreamTask", [(name, Any, None) for name in names])
    message = msgspec.defstruct("StreamInitialize", [("data", data)])
    module = msgspec.json if encodings.is_text(encoding) else msgspec.msgpack
    decoder: Any = module.Decoder(message)
    return lambda wire: msgspec.structs.asdict(decoder.decode(wire).data)
