"""Encoding of log records that are sent between processes. See fork_logging.py. Python 3.8 and newer."""

from __future__ import annotations

import _pickle  # not `pickle`, which imports three modules more
import struct

TYPE_CHECKING = False  # not typing's: its import would take 2 ms of a user's fork
if TYPE_CHECKING:
    from typing import Any, Dict, Tuple

#: Header of each record: its length.
LENGTH = struct.Struct("=I")
#: The protocol of pickles.
_HIGHEST = -1
#: Types of values that every process can unpickle; each other value is pickled separately.
_PLAIN = (str, int, float, bool, bytes, type(None))


def packed(number: int, record: Any) -> bytes:
    """Return the frame. A value that another process may be unable to unpickle is pickled separately."""
    plain: Dict[str, Any] = {}
    others: Dict[str, bytes] = {}
    for name, value in record.__dict__.items():
        if type(value) in _PLAIN or (name == "args" and not value):
            plain[name] = value
        else:
            try:
                others[name] = _pickle.dumps(value, _HIGHEST)
            except Exception:  # noqa: BLE001 - whatever the user's objects raise
                plain[name] = _shown(value)
    body = _pickle.dumps((number, plain, others), _HIGHEST)
    return LENGTH.pack(len(body)) + body


def _shown(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever the user's objects raise
        return f"<{type(value).__name__}>"


def unpacked(frame: bytes) -> Tuple[int, Any]:
    """Return the handler's number and the record; a value that cannot be unpickled here becomes a text."""
    import logging

    number, plain, others = _pickle.loads(frame)
    record = logging.LogRecord("", 0, "", 0, "", None, None)
    record.__dict__.update(plain)
    for name, value in others.items():
        try:
            setattr(record, name, _pickle.loads(value))
        except Exception:  # noqa: BLE001 - a class that only the other process knows
            setattr(record, name, "(of a class that is not known here)")
    return number, record
