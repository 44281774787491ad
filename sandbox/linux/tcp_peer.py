"""Which process is at the other end of a TCP connection on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable

from . import procfs


def is_of(pids: Iterable[int], *, port: int, peer_port: int) -> bool:
    """Whether one of these processes has the client's socket of the connection from peer_port to our port."""
    inode = _inode(port, peer_port)
    return inode is not None and any(_has_socket(pid, inode) for pid in pids)


def _inode(port: int, peer_port: int) -> bytes | None:
    """Return the inode of the client's socket, which the kernel lists as the other way round."""
    # A client may use an IPv6 socket for 127.0.0.1: Java does.
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = procfs.read_all(table).splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            own, remote = (int(fields[at].rpartition(b":")[2], 16) for at in (1, 2))
            if own == peer_port and remote == port:
                return fields[9]
    return None


def _has_socket(pid: int, inode: bytes) -> bool:
    wanted = f"socket:[{inode.decode()}]"
    try:
        with os.scandir(f"/proc/{pid}/fd") as found:
            return any(_target(one.path) == wanted for one in found)
    except OSError:  # it has ended
        return False


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed meanwhile
        return ""
