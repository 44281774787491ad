"""Says which option of --sandbox strict opens what it has refused. Python 3.8 and newer."""

from __future__ import annotations

import errno
import os
from typing import Any, Dict, Optional

from ..shared.isolation_policy import is_below

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_OPENS = "--net HOST:PORT opens one address, --net all all of them"
#: What isolation_policy.hints_of() has returned; None: the algorithm is not isolated.
_allowed: Optional[Dict[str, Any]] = None


def use(allowed: Optional[Dict[str, Any]]) -> None:
    """Give hints from now on, as this is what is allowed."""
    global _allowed
    _allowed = allowed


def hint(number: int, filename: object, name: str) -> str:
    """Return a clause for an error with this errno and file, of the class of this name; "": none is known."""
    if _allowed is None:
        return ""
    if not _allowed["network"] and filename is None:
        if name == "gaierror":
            return f"; --sandbox strict {_reached()}, so that this name is not found: {_OPENS}"
        if number == errno.ENETUNREACH:
            return f"; --sandbox strict {_reached()}: {_OPENS}"
        if number == errno.ECONNREFUSED:
            return f"; --sandbox strict {_reached()}, and 127.0.0.1 is the algorithm's own: {_OPENS}"
    if type(filename) not in (str, bytes) or number not in (*_REFUSED, errno.ENOENT):
        return "; --sandbox strict refuses this call" if number in _REFUSED and filename is None else ""
    try:
        path = os.path.abspath(os.fsdecode(filename))  # type: ignore[arg-type]
    except (OSError, ValueError):  # the working folder is gone
        return ""
    if is_below(path, _allowed["writable"]):
        return ""
    if is_below(path, _allowed["readable"]):
        if number == errno.ENOENT:
            return ""
        folder = os.path.dirname(path)
        return f"; --sandbox strict lets the code read this, not write: --write {folder} opens it"
    if number == errno.EROFS:
        return f"; --sandbox strict lets the code write to its temporary folder: --write {path} opens this"
    if number == errno.ENOENT:
        return f"; --sandbox strict hides this, if it exists: --read {path} opens it"
    return f"; --sandbox strict refuses it: --read {path} opens it, --write {path} also for writing"


def _reached() -> str:
    """Return the clause on what the algorithm can connect to."""
    assert _allowed is not None, "the caller has looked"
    return "reaches only " + ", ".join(_allowed["targets"]) if _allowed["targets"] else "has no network"
