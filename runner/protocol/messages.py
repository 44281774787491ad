"""The messages of the worker and those to it, as values; no I/O.

Source: HKube core/worker lib/algorithm-communication/messages.js. The envelope in both directions is
`{command, data?, error?}`; data may be absent or null, and unknown keys and commands must be expected.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from ...sandbox.codec import codec

# worker -> algorithm
INITIALIZE: Final = "initialize"
START: Final = "start"
STOP: Final = "stop"
EXIT: Final = "exit"
ALREADY_CONNECTED: Final = "alreadyConnectedError"
DISCOVERY: Final = "serviceDiscoveryUpdate"

# algorithm -> worker
INITIALIZED: Final[dict[str, Any]] = {"command": "initialized"}
STARTED: Final[dict[str, Any]] = {"command": "started"}
DONE: Final[dict[str, Any]] = {"command": "done"}  #: under storage v3: the result is in the storage
SERVING_STATUS: Final[dict[str, Any]] = {"command": "servingStatus", "data": True}
ALIVE: Final[dict[str, Any]] = {"command": "alive"}
STOPPING: Final[dict[str, Any]] = {"command": "stopping"}
STOPPED: Final[dict[str, Any]] = {"command": "stopped"}

# HKube's wrapper for Node -> hkrunner, which does not pass it on (see prepare/program.py)
OVERDUE: Final = "messageOverdue"


def progress_data(value: float, details: object) -> dict[str, Any]:
    """Return the data of `progress`.

    A program may send details that JSON does not have, or that are nested too deep to be written: they become
    what JSON has, or None. So does a progress that is a NaN or an Infinity.
    """
    if details is not None and not isinstance(details, str):
        try:
            details = codec.plain(details, "json", "details")
        except codec.ResultInvalid:
            details = None
    return {"progress": value if math.isfinite(value) else None, "details": details}


class Failure(NamedTuple):
    """Why a task has no result. HKube's worker keeps only `message`, so it has to say everything."""

    code: str
    message: str
    details: str = ""
    is_deliberate: bool = False  #: see the message Failed

    def to_message(self) -> dict[str, Any]:
        """Return the errorMessage for the worker. `error` is at the top level, never under data."""
        # The worker turns an empty message into "unknown error".
        text = self.message or f"{self.code}: no text"
        return {
            "command": "errorMessage",
            "error": {"code": self.code, "message": text, "details": self.details},
        }


def printable(text: str, most: int = 200) -> str:
    """Return text from the network as one line for a terminal: cut, with control characters escaped."""
    if len(text) > most:
        text = text[:most] + "…"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def data_of(message: Any) -> dict[str, Any]:
    """Return the data of a decoded message; {} when it is absent, null, or not an object."""
    data = message.get("data") if isinstance(message, dict) else None
    return data if isinstance(data, dict) else {}


def exit_code_of(message: Any) -> int:
    """Return the exit code that an `exit` asks for; 0 when it asks for none that a process can have."""
    code = data_of(message).get("exitCode")
    return code & 0xFF if isinstance(code, int) and not isinstance(code, bool) else 0
