"""A log record as bytes from one process to another. See fork_logging.py. Python 3.8 and newer."""

from __future__ import annotations

import struct

TYPE_CHECKING = False  # not typing's: its import would take 2 ms of a user's fork
if TYPE_CHECKING:
    from typing import Any, Dict, Tuple

#: In front of each record: how long it is.
LENGTH = struct.Struct("=I")
#: Values of a record that are the same in every process; anything else is pickled apart.
_PLAIN = (str, int, float, bool, bytes, type(None))


def packed(number: int, record: Any) -> bytes:
    """Return the frame. What one process may be unable to read of another's is pickled apart."""
    import pickle

    plain: Dict[str, Any] = {}
    others: Dict[str, bytes] = {}
    for name, value in record.__dict__.items():
        if type(value) in _PLAIN or (name == "args" and not value):
            plain[name] = value
        else:
            try:
                others[name] = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
            except Exception:  # noqa: BLE001 - whatever the user's objects raise
                plain[name] = _shown(value)
    body = pickle.dumps((number, plain, others), pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def _shown(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever the user's objects raise
        return f"<{type(value).__name__}>"


def unpacked(frame: bytes) -> Tuple[int, Any]:
    import logging
    import pickle

    number, plain, others = pickle.loads(frame)
    record = logging.LogRecord("", 0, "", 0, "", None, None)
    record.__dict__.update(plain)
    for name, value in others.items():
        try:
            setattr(record, name, pickle.loads(value))
        except Exception:  # noqa: BLE001 - a class that only the other process knows
            setattr(record, name, "(of a class that is not known here)")
    return number, record
