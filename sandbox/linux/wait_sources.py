"""Who could wake a thread that waits: whether only processes of its own tree can.

A thread is woken through what it waits for: by the other end of a pipe, of a unix socket, or of a TCP
connection on this machine, or by the process of a pidfd. A lock, or an eventfd, has no end elsewhere. For
everything else, somebody outside may wake it: a terminal, a device, a file, a listening socket.

Imported only when a process was refused memory.
"""

from __future__ import annotations

import _socket  # as in child/frame_socket.py
import os
import re
import stat
import struct
from collections.abc import Collection, Iterator

from . import procfs

_NETLINK_SOCK_DIAG = 4
#: linux: include/uapi/linux/sock_diag.h, unix_diag.h: the message, what to show, and the attribute for it.
_SOCK_DIAG_BY_FAMILY, _UDIAG_SHOW_PEER, _UNIX_DIAG_PEER = 20, 4, 2
_NLM_F_REQUEST = 1
#: IPv4 addresses as /proc/net/tcp6 has them.
_MAPPED = "0000000000000000FFFF0000"


class WaitSources:
    """The open files of all processes of a tree, as of now. All raises OSError if one has ended."""

    def __init__(self, pids: Collection[int]) -> None:
        self._pids = frozenset(pids)
        self._links: dict[int, dict[int, str]] = {}
        #: Which processes can read what is open, and which can write it.
        self._readers: dict[str, set[int]] = {}
        self._writers: dict[str, set[int]] = {}
        for pid in self._pids:
            links = self._links[pid] = {}
            for name in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{name}"
                links[int(name)] = link = os.readlink(path)
                mode = os.lstat(path).st_mode
                if mode & stat.S_IRUSR:
                    self._readers.setdefault(link, set()).add(pid)
                if mode & stat.S_IWUSR:
                    self._writers.setdefault(link, set()).add(pid)

    def link(self, pid: int, fd: int) -> str:
        """Return what is open under this descriptor, as /proc shows it; "" if nothing is."""
        return self._links[pid].get(fd, "")

    def wakers(self, pid: int, fd: int) -> Collection[int]:
        """Return the processes that can wake a thread of this one which waits for this descriptor.

        None (an empty collection) if others may, or if it is not known who.
        """
        link = self.link(pid, fd)
        if link.startswith("pipe:["):
            reads = os.lstat(f"/proc/{pid}/fd/{fd}").st_mode & stat.S_IRUSR
            return (self._writers if reads else self._readers).get(link, ())
        if link.startswith("socket:["):
            peer = self._peer_of(int(link[8:-1]), pid)
            return self._readers.get(f"socket:[{peer}]", ()) if peer else ()
        if link == "anon_inode:[eventfd]":
            return (pid,)
        if link == "anon_inode:[pidfd]":
            found = re.search(rb"^Pid:\s*(\d+)$", _fdinfo(pid, fd), re.M)
            return self._pids & {int(found[1])} if found else ()
        if link == "anon_inode:[eventpoll]":
            return self.wakers_of_all(pid, watched_by(pid, fd))
        return ()

    def wakers_of_all(self, pid: int, fds: Collection[int]) -> Collection[int]:
        """Return the processes that can wake a thread which waits for any of these; none, as wakers()."""
        found: set[int] = set()
        for fd in fds:
            wakers = self.wakers(pid, fd)
            if not wakers:
                return ()
            found.update(wakers)
        return found

    def _peer_of(self, inode: int, pid: int) -> int:
        """Return the inode of the other end of a connected socket of this process; 0: it is not known."""
        return _unix_peer(inode) or _tcp_peer(inode, pid)


def watched_by(pid: int, fd: int) -> list[int]:
    """Return the descriptors that an epoll waits for, if each is still the file that was added."""
    found = []
    # tfd: DESCRIPTOR events: … data: … pos:… ino:HEX sdev:HEX (linux: fs/eventpoll.c)
    for line in _fdinfo(pid, fd).splitlines():
        if line.startswith(b"tfd:"):
            target, inode = int(line.split()[1]), re.search(rb"ino:([0-9a-f]+)", line)
            if inode is None or os.stat(f"/proc/{pid}/fd/{target}").st_ino != int(inode[1], 16):
                raise ValueError("the descriptor was closed, and what it was is not known")
            found.append(target)
    return found


def _fdinfo(pid: int, fd: int) -> bytes:
    return procfs.read_all(f"/proc/{pid}/fdinfo/{fd}")


def _unix_peer(inode: int) -> int:
    """Ask the kernel for the inode of the other end of a unix socket of this network namespace; 0: none."""
    request = struct.pack(
        "=IHHII BBHIIIII",
        *(40, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0),
        *(_socket.AF_UNIX, 0, 0, 0xFFFF_FFFF, inode, _UDIAG_SHOW_PEER, 0xFFFF_FFFF, 0xFFFF_FFFF),
    )
    kernel = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    try:
        kernel.send(request)
        answer = kernel.recv(4096)
    finally:
        kernel.close()
    if struct.unpack_from("=IH", answer)[1] != _SOCK_DIAG_BY_FAMILY:  # an error: there is no such socket
        return 0
    at = 32
    while at + 8 <= len(answer):
        size, kind, value = struct.unpack_from("=HHI", answer, at)
        if kind == _UNIX_DIAG_PEER:
            return int(value)
        at += max(4, (size + 3) & ~3)
    return 0


def _tcp_peer(inode: int, pid: int) -> int:
    """Return the inode of the other end of a TCP connection; 0: it is not in the same network namespace."""
    by_ends = dict(_tcp_sockets(pid))
    for (own, remote), found in by_ends.items():
        if found == inode:
            return by_ends.get((remote, own), 0)
    return 0


def _tcp_sockets(pid: int) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield both addresses of each TCP socket, and its inode."""
    for table in ("tcp", "tcp6"):
        try:
            lines = procfs.read_all(f"/proc/{pid}/net/{table}").splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.decode().split()
            own, remote = (fields[at].replace(_MAPPED, "") for at in (1, 2))
            yield (own, remote), int(fields[9])
