"""Names the threads and processes of the user's that run in, or below, this process.

Imported only where there is something to name. Python 3.8 and newer.
"""

from __future__ import annotations

import os
import threading

#: So many are named; all are counted.
NAMED = 5
#: Characters of a name: a thread may have any.
NAME_MAX = 100
#: Names of hkrunner's own threads begin so.
_OWN_THREADS = "hkrunner-"


def named(ignored: frozenset[int], *, adopted: bool) -> tuple[list[str], int]:
    """Return the names of the first ones, and the number of all.

    `ignored`: processes that are not the user's. `adopted`: the parent of this process, a warden, is
    also that of processes whose own parent has ended.
    """
    names = [f"thread {_name(one)}" for one in threading.enumerate() if _is_users(one)]
    pids = set(children("self"))
    if adopted:
        pids.update(children(str(os.getppid())))
    unnamed = 0
    for pid in sorted(pids - ignored - {os.getpid()}):
        name = _name_of_process(pid) if len(names) < NAMED else ""
        if name:
            names.append(f"process {name} (pid {pid})")
        elif name is not None:
            unnamed += 1
    return names[:NAMED], len(names) + unnamed


def _name_of_process(pid: int) -> str | None:
    """Return the name of a process; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            name, _, rest = file.read().partition(b"(")[2].rpartition(b")")
    except OSError:
        return None
    return None if rest[1:2] in (b"Z", b"X") else _shown(name.decode("utf-8", "replace")) or "?"


def _is_users(thread: threading.Thread) -> bool:
    return thread is not threading.main_thread() and not _name(thread).startswith(_OWN_THREADS)


def _name(thread: threading.Thread) -> str:
    try:
        return _shown(str(thread.name))
    except Exception:  # noqa: BLE001 - a class of the user's may raise anything
        return "?"


def _shown(name: str) -> str:
    """Return the name cut, and without what could move a terminal's cursor or break the line."""
    return "".join(one if one.isprintable() else "?" for one in name[:NAME_MAX])


def children(pid: str) -> list[int]:
    """Return the children of a process; [] where the kernel does not list them (CONFIG_PROC_CHILDREN)."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass
    return found
