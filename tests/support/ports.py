"""Ports of 127.0.0.1 that nobody uses now, and that the kernel gives to nobody by itself.

A program binds such a port a second after the test has chosen it. So it is none of those among which the
kernel chooses: another test, or any connection, could have it by then.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_LOWEST, _ROOM = 10_000, 1_000


def _candidates() -> Iterator[int]:
    """Each port once, from a place on that is another one in each process; 0: one that the kernel chooses."""
    end = 0  # where the kernel does not say which it chooses from
    with contextlib.suppress(OSError):
        end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if end < _LOWEST + _ROOM:
        yield from itertools.repeat(0)
    for number in itertools.count(os.getpid() * 211):
        yield _LOWEST + number % (end - _LOWEST)


_ports = _candidates()


def _first_free(count: int) -> int:
    """Return the first of so many ports in a row that are free."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            found = stack.enter_context(socket.create_server(("127.0.0.1", next(_ports))))
            port: int = found.getsockname()[1]
            for further in range(port + 1, port + count):
                stack.enter_context(socket.create_server(("127.0.0.1", further)))
            for _ in range(count - 1):
                next(_ports)
            return port


def free_port() -> int:
    return _first_free(1)


def free_ports() -> int:
    """Return a port that is free together with the next one."""
    return _first_free(2)


class HeldPort:
    """A port that is ours from here on: connections to it are refused whenever no server of ours listens.

    Linux lets a server bind the port of a socket that does not listen, if both have SO_REUSEADDR.
    """

    def __init__(self) -> None:
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.number: int = self._holder.getsockname()[1]

    def listen(self) -> socket.socket:
        """Return a server at this port."""
        return socket.create_server(("127.0.0.1", self.number), backlog=16)

    def close(self) -> None:
        self._holder.close()


def has_ipv6() -> bool:
    """Return whether this machine has the loopback address of IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
