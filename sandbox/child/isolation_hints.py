"""Says which option of --sandbox strict opens what it has refused. Python 3.8 and newer."""

from __future__ import annotations

import errno
import os
import sys
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
_OF_THE_NETWORK = (
    "Network is unreachable",
    "Temporary failure in name resolution",
    "Could not resolve host",
    "Connection refused",
)
_OF_FILES = (
    "Permission denied",
    "No such file or directory",
    "does not exist",
    "Read-only file system",
    "Operation not permitted",
)
_OF_OWNERS = ("Cannot change ownership", "changing ownership")
#: Beginnings of the names of GPUs in /dev.
_GPUS = ("/dev/nvidia", "/dev/dri", "/dev/kfd", "/dev/dxg")
_SHOWN = 200
_PATH_MAX = 4096


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
        shown = line.strip()[:_SHOWN]
        if not _allowed["network"] and any(one in line for one in _OF_THE_NETWORK):
            return f"; it printed: {shown}; --sandbox strict {_reached()}: {_OPENS}"
        if any(one in line for one in _OF_OWNERS):
            return f"; it printed: {shown}; --sandbox strict knows its own user and group only"
        if any(one in line for one in _OF_FILES):
            return f"; it printed: {shown}; 'hkrunner why --path PATH' says what --sandbox strict hides"
    return ""


def hint_of_import() -> str:
    """Return a clause for a module that was not found; "": no folder of sys.path is hidden."""
    if _allowed is None:
        return ""
    hidden = [
        one
        for one in sys.path
        if type(one) is str
        and os.path.isabs(one)
        and not one.endswith(".zip")  # of the standard library, which is not there
        and not is_below(one, [*_allowed["readable"], *_allowed["writable"], *_own])
        and not os.path.exists(one)
    ]
    if not hidden:
        return ""
    return f"; of sys.path, --sandbox strict hides {', '.join(hidden)}, if it exists: --read opens a folder"


def hint_of_variable(args: object) -> str:
    """Return a clause for a variable that is missing in os.environ; `args`: of the KeyError."""
    if _allowed is None or type(args) is not tuple or not args or type(args[0]) is not str:
        return ""
    return f"; --sandbox strict passes on only some variables: --env {args[0]} adds this one"


def hint(number: int, filename: object, name: str) -> str:
    """Return a clause for an error with this errno and file, of the class of this name; "": none is known."""
    if _allowed is None:
        return ""
    if not _allowed["network"] and filename is None:
        if name == "gaierror":
            return f"; --sandbox strict {_reached()}, so that this name is not found: {_OPENS}"
        if number == errno.ENETUNREACH:
            return f"; --sandbox strict {_reached()}: {_OPENS}"
        if number == errno.EADDRNOTAVAIL:
            return f"; --sandbox strict {_reached()}, and no address but 127.0.0.1: {_OPENS}"
        if number == errno.ECONNREFUSED:
            return f"; --sandbox strict {_reached()}, and 127.0.0.1 is the algorithm's own: {_OPENS}"
    if number == errno.ENOENT and filename is None and name == "FileNotFoundError":
        return "; --sandbox strict hides files and sockets elsewhere: --read with its path opens one"
    if number == errno.EXDEV:
        return "; --sandbox strict makes /tmp and each --write a file system of its own: shutil.move() copies"
    if type(filename) not in (str, bytes) or number not in (*_REFUSED, errno.ENOENT):
        return "; --sandbox strict refuses this call" if number in _REFUSED and filename is None else ""
    if len(filename) > _PATH_MAX:  # type: ignore[arg-type]
        return ""  # no call of the kernel's had this path, and to resolve it takes minutes
    try:
        # Where a link leads to has to be opened.
        path = os.path.realpath(os.fsdecode(filename))  # type: ignore[arg-type]
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
    if path.startswith(_GPUS):
        return "; --sandbox strict has no GPUs"
    if number == errno.EROFS:
        return (
            "; --sandbox strict lets the code write to its temporary folder:"
            f" --write {path} opens this, if it exists outside"
        )
    if is_below(path, ["/tmp"]) and "/tmp" not in _own:
        return f"; --sandbox strict refuses it: TMPDIR is {_own[0]}, and --read {path} opens it"
    if number == errno.ENOENT:
        return f"; --sandbox strict hides this, if it exists: --read {path} opens it"
    return f"; --sandbox strict refuses it: --read {path} opens it, --write {path} also for writing"


def _reached() -> str:
    """Return the clause on what the algorithm can connect to."""
    assert _allowed is not None, "the caller has looked"
    return "reaches only " + ", ".join(_allowed["targets"]) if _allowed["targets"] else "has no network"
