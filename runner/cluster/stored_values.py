"""Values as HKube keeps and shows them -> JSON text as a local run prints it.

A stored value has a header of 8 bytes before it (version, its own length, kind, encoding, 0, 0, "HK"), unless
the storage keeps the header elsewhere, as S3 does, or one of HKube's services wrote the value.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from ...sandbox.codec import codec
from ..errors import ClusterError
from .job_answers import finite

_HEADER_LENGTH = 8
_MAGIC = b"HK"
_RAW_BYTES = 1  #: kind of a value that is bytes, stored as they are
_ENCODINGS = {1: "bson", 2: "json", 3: "msgpack"}


def json_of_stored(data: bytes, encoding: str) -> bytes:
    """Return the JSON text of a stored value. `encoding`: that of the storage, for one without a header.

    Raises ClusterError.
    """
    header = data[:_HEADER_LENGTH]
    has_header = len(header) == _HEADER_LENGTH and header.endswith(_MAGIC) and header[1] == _HEADER_LENGTH
    body = memoryview(data)[_HEADER_LENGTH:] if has_header else memoryview(data)
    if has_header and header[2] == _RAW_BYTES:
        return _json(bytes(body))
    encoding = _ENCODINGS.get(header[3], encoding) if has_header else encoding
    try:
        value = codec.decode(encoding, body)
    except (ValueError, KeyError, TypeError) as error:
        if not has_header:
            return _json(bytes(body))  # bytes, whose header is kept elsewhere
        raise ClusterError(f"a stored result cannot be read as {encoding}: {error}") from None
    return _json(value)


def json_of_shown(value: Any) -> bytes:
    """Return the JSON text of a value that the API has put into its own JSON. Raises ClusterError."""
    try:
        shown = _with_bytes(value)
    except RecursionError:
        raise ClusterError("a result is nested too deep") from None
    return _json(shown)


def _json(value: Any) -> bytes:
    try:
        try:
            return json.dumps(value, default=_text_of, allow_nan=False).encode()
        except ValueError:  # NaN, which JSON has not: as in HKube's own JSON, null is in its place
            return json.dumps(finite(value), default=_text_of, allow_nan=False).encode()
    except RecursionError:
        raise ClusterError("a result is nested too deep") from None
    except (TypeError, ValueError) as error:  # msgpack has keys that are bytes or lists
        raise ClusterError(f"a stored result has no form in JSON: {error}") from None


def _text_of(value: Any) -> Any:
    """Return what stands for a value that JSON does not have: base64 for bytes, as on a worker's socket."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    return str(value)  # of bson: dates, identifiers


def _with_bytes(value: Any) -> Any:
    """Return the value with bytes in the place of what Node's JSON has for a Buffer."""
    if isinstance(value, list):
        return [_with_bytes(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"type", "data"} and value["type"] == "Buffer" and isinstance(value["data"], list):
        try:
            return bytes(value["data"])
        except (ValueError, TypeError):
            pass  # no bytes after all
    return {key: _with_bytes(one) for key, one in value.items()}
