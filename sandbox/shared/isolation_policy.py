"""What `--sandbox strict` allows the algorithm, and what each level of it does not prevent.

This module also runs inside the child, on Python 3.8 and newer.
"""

from __future__ import annotations

from typing import Any, Dict, List

from .message_format import ProcessMessage

#: The levels, strongest first.
LEVELS = ("full", "ns", "landlock")
#: Level -> what it does not prevent, though the level `full` does.
NOT_PREVENTED = {
    "full": "",
    "ns": "the algorithm sees the machine's processes with their command lines",
    "landlock": "the algorithm sees the machine's processes with their command lines, and the names, sizes"
    " and times of all files; it can connect to Unix sockets that have a path, change modes, times and"
    " attributes of the user's files, and use shared memory that others have made",
}


class Isolation(ProcessMessage):
    """What the algorithm may read, write and reach. Paths are absolute; those of `writable` are resolved."""

    levels: List[str]  #: those that are accepted, in the order in which they are tried
    readable: List[str]  #: files and folders; those that do not exist are left out
    writable: List[str]  #: folders and files
    hidden: List[str]  #: folders below readable ones that it must not see
    network: bool  #: whether it may use the network of the machine
    temporary: str  #: the folder that is /tmp for it; at the level `landlock` it has its own name
    shared_memory: str  #: the folder that is /dev/shm for it, but at the level `landlock`
    new_root: str  #: an empty folder, on which the algorithm's root folder is made
    targets: List[str]  #: what it may connect to without that network, each as net_target() reads it


def levels_from(least: str) -> List[str]:
    """Return the levels that are accepted where this one is the least."""
    return list(LEVELS[: LEVELS.index(least) + 1])


def hints_of(isolation: Isolation) -> Dict[str, Any]:
    """Return what the child needs to name the option that would allow what was refused."""
    return {
        "readable": isolation.readable,
        "writable": isolation.writable,
        "network": isolation.network,
        "targets": isolation.targets,
    }


def is_below(path: str, folders: Any) -> bool:
    """Whether the path is one of the folders, or in one of them."""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)
