"""Inputs and results out of the worker's messages, as the journal holds them."""

from __future__ import annotations

from ...sandbox.codec import DONE_JSON

#: Inputs and results up to this size are in the journal; larger ones are files in the task's folder.
VALUE_MAX = 256 * 1024


def input_json(encoding: str, wire: bytes) -> bytes | None:
    """Return the input in an `initialize`, as JSON; None when it has no such form."""
    from ...sandbox.codec import codec  # late: hardly any process needs it

    try:
        return codec.json_text(codec.data_of(codec.decode(encoding, wire)).get("input"))
    except ValueError:
        return None


def output_json(encoding: str, wire: bytes) -> bytes | None:
    """Return the result in a `done`, as JSON; None when it has no such form."""
    if encoding == "json" and wire.startswith(DONE_JSON):
        return wire[len(DONE_JSON) : -1]
    from ...sandbox.codec import codec

    try:
        message = codec.decode(encoding, wire)
        return codec.json_text(message["data"])
    except (ValueError, TypeError, KeyError):
        return None
