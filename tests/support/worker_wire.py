"""What HKube's worker sends and reads: encodings, WebSocket frames, a task. It uses nothing of hkrunner."""

from __future__ import annotations

import json
import struct
from typing import Any

import bson
import msgspec

#: WORKER_SOCKET_MAX_PAYLOAD_BYTES
MESSAGE_MAX = 100_000_000
TEXT, BINARY, CONTINUATION, CLOSE, PING = 1, 2, 0, 8, 9

TASK: dict[str, Any] = {
    "useCache": False,
    "flatInput": None,
    "jobId": "4ispixlx3ka6",
    "taskId": "b6thsibs",
    "input": [],
    "storage": {},
    "nodeName": "green",
    "algorithmName": "green-alg",
    "pipelineName": "simple",
    "kind": "batch",
    "parents": [],
    "childs": [],
    "priority": 3,
    "status": "creating",
    "info": {"savePaths": ["green"], "lastRunResult": None, "rootJobId": None, "extraData": None},
    "spanId": {},
}


def encode(encoding: str, message: Any) -> bytes:
    if encoding == "json":
        return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if encoding == "bson":
        return bytes(bson.encode({"data": message}))
    return msgspec.msgpack.encode(message)


def decode(encoding: str, data: bytes) -> Any:
    """Decode a message. Raises ValueError where the worker's own decoder throws."""
    try:
        if encoding == "json":
            return json.loads(data.decode(), parse_constant=_no_json)
        if encoding == "bson":
            return bson.decode(data)["data"]
        return msgspec.msgpack.decode(data)
    except (bson.errors.BSONError, KeyError, msgspec.MsgspecError) as error:
        raise ValueError(str(error)) from error


def _no_json(name: str) -> Any:
    raise ValueError(f"Unexpected token {name} in JSON")


def frame(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    """Return a frame as a server sends it (RFC 6455, 5.2): not masked."""
    first = opcode | (0x80 if last else 0)
    if len(payload) < 126:
        return struct.pack("!BB", first, len(payload)) + payload
    if len(payload) < 65536:
        return struct.pack("!BBH", first, 126, len(payload)) + payload
    return struct.pack("!BBQ", first, 127, len(payload)) + payload
