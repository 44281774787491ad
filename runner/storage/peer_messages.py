"""The requests and replies by which HKube's algorithms ask each other for results; no sockets here.

A request is one frame, the plain encoding of `{tasks: [id, …]}`. The reply has two frames for each task, in
the order of the request: the header and the value. An error is a value `{hkube_error: {code, message}}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...sandbox.codec import codec
from ...sandbox.codec.codec import Buffer
from .encoded_value import EncodedValue, check, decode, describe, encode_plain, is_header, part, value_of
from .errors import StorageError

PING, PONG = b"ping", b"pong"
_ERROR = "hkube_error"


class PeerError(StorageError):
    """The peer has sent no valid reply; its results are read from the storage."""


def request(encoding: str, tasks: Sequence[str]) -> bytes:
    """Return the request for the results of these tasks."""
    return encode_plain(encoding, {"tasks": list(tasks)})


def tasks_of(encoding: str, frame: bytes) -> list[str]:
    """Return the tasks that a request asks for. Raises ValueError."""
    asked = codec.decode(encoding, frame)
    tasks = asked.get("tasks") if isinstance(asked, dict) else None
    if not isinstance(tasks, list):
        raise ValueError("the request has no list of tasks")
    return [str(task) for task in tasks]


def error(encoding: str, code: str, message: str) -> list[Buffer]:
    """Return the two frames that say why there is no value."""
    value = EncodedValue(encoding, encode_plain(encoding, {_ERROR: {"code": code, "message": message}}))
    return [value.header(encoding), value.data]


def values_of(encoding: str, frames: Sequence[bytes], count: int, peer: str) -> list[EncodedValue | None]:
    """Return the values in a reply for `count` tasks; None for each that the peer does not have.

    Raises PeerError for any other reply. A reply that is one error for the whole request has
    two frames, however many tasks were asked for.
    """
    if len(frames) == 2 and count > 1 and _is_error(_value(encoding, frames[0], frames[1], peer)):
        return [None] * count
    if len(frames) != 2 * count:
        raise PeerError(f"peer {peer} sent {len(frames)} frames for {count} tasks")
    values = [_value(encoding, frames[i], frames[i + 1], peer) for i in range(0, len(frames), 2)]
    return [None if _is_error(value) else value for value in values]


def _value(encoding: str, header: bytes, data: bytes, peer: str) -> EncodedValue:
    if header and not is_header(header):
        raise PeerError(f"peer {peer} sent a header of an unknown form: {header[:16].hex(' ')}")
    value = value_of(header or None, data, encoding, f"what peer {peer} sent")
    check(value, f"what peer {peer} sent")
    return value


def _is_error(value: EncodedValue) -> bool:
    """Whether the value is an error of the peer: an object with such a key, as HKube's clients see it."""
    if value.is_raw or describe(value)[0] != "object":
        return False
    found: Any = part(value, _ERROR)
    return found is not None and bool(decode(found))
