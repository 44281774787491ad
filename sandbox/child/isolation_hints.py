"""Says which option of --sandbox strict opens what it has refused. Python 3.8 and newer."""

from __future__ import annotations

import errno
import os
from typing import Any, Dict, List, Optional

from ..shared.isolation_policy import is_below

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_OPENS = "--net HOST:PORT opens one address, --net all all of them"
#: What isolation_policy.hints_of() has returned; None: the algorithm is not isolated.
_allowed: Optional[Dict[str, Any]] = None
_home = ""
#: Folders that only the algorithm has.
_own: List[str] = []
#: What SQLite says, of which Python tells neither the errno nor the file.
_OF_SQLITE = {
    "unable to open database file": "hides files elsewhere: --read opens the database, --write with the path"
    " of its folder also to make or change one",
    "attempt to write a readonly database": "lets the code read this, not write: --write with the path of its"
    " folder opens it",
}
#: What a program prints that has met the sandbox.
_OF_PROGRAMS = (
    "Permission denied",
    "No such file or directory",
    "Read-only file system",
    "Operation not permitted",
    "Network is unreachable",
    "Temporary failure in name resolution",
    "Could not resolve host",
)
_SHOWN = 200


def use(allowed: Optional[Dict[str, Any]]) -> None:
    """Give hints from now on, as this is what is allowed; called before the code can change its variables."""
    global _allowed, _home, _own
    _allowed = allowed
    if allowed is not None:
        _home, temporary = os.environ.get("HOME", ""), os.environ.get("TMPDIR", "")
        _own = [temporary, "/var/tmp", "/dev/shm"] if temporary == "/tmp" else [temporary]


def hint_of_text(text: str, name: str) -> str:
    """Return a clause for an error of a library that has no errno; "": none is known."""
    if _allowed is None or name != "OperationalError" or text not in _OF_SQLITE:
        return ""
    return f"; --sandbox strict {_OF_SQLITE[text]}"


def hint_of_program(program: object) -> str:
    """Return a clause for a program that was not found in PATH; "": it has none of its folders hidden."""
    if _allowed is None or type(program) is not str:
        return ""
    if "/" in program:
        return hint(errno.ENOENT, program, "FileNotFoundError")
    folders = dict.fromkeys(os.environ.get("PATH", "").split(os.pathsep))
    hidden = [one for one in folders if os.path.isabs(one) and not os.path.isdir(one)]
    if not hidden:
        return ""
    return f"; of PATH, --sandbox strict hides {', '.join(hidden)}: --read opens a folder"


def hint_of_output(printed: object) -> str:
    """Return a clause with the last line of a program's stderr that names what may have been refused."""
    if _allowed is None or not isinstance(printed, (str, bytes)) or type(printed) not in (str, bytes):
        return ""
    text = printed if isinstance(printed, str) else printed.decode("utf-8", "replace")
    for line in reversed(text[-4000:].splitlines()):
        if any(one in line for one in _OF_PROGRAMS):
            shown = line.strip()[:_SHOWN]
            return f"; it printed: {shown}; 'hkrunner why --path PATH' says what --sandbox strict hides"
    return ""


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
    if number == errno.ENOENT and filename is None and name == "FileNotFoundError":
        return "; --sandbox strict hides sockets that have a path: --read with its path opens one"
    if type(filename) not in (str, bytes) or number not in (*_REFUSED, errno.ENOENT):
        return "; --sandbox strict refuses this call" if number in _REFUSED and filename is None else ""
    try:
        path = os.path.abspath(os.fsdecode(filename))  # type: ignore[arg-type]
    except (OSError, ValueError):  # the working folder is gone
        return ""
    if is_below(path, _allowed["writable"]):
        return "; --sandbox strict refuses this call" if number == errno.EPERM else ""
    if is_below(path, _allowed["readable"]):
        if number == errno.ENOENT:
            return ""
        folder = os.path.dirname(path)
        return f"; --sandbox strict lets the code read this, not write: --write {folder} opens it"
    if number == errno.ENOENT and is_below(path, [_home]):
        return (
            "; --sandbox strict gives the code a home of its own: name a file of yours by its whole path,"
            " and open that by --read"
        )
    if number == errno.EPERM and is_below(path, _own):
        return "; --sandbox strict refuses this call"
    if number == errno.EROFS:
        return f"; --sandbox strict lets the code write to its temporary folder: --write {path} opens this"
    if number == errno.ENOENT:
        return f"; --sandbox strict hides this, if it exists: --read {path} opens it"
    return f"; --sandbox strict refuses it: --read {path} opens it, --write {path} also for writing"


def _reached() -> str:
    """Return the clause on what the algorithm can connect to."""
    assert _allowed is not None, "the caller has looked"
    return "reaches only " + ", ".join(_allowed["targets"]) if _allowed["targets"] else "has no network"
