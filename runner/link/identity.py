"""Decides whether the connected worker is certainly the one from before the drop.

No message of HKube's names its sender, and a restarted worker takes an answer for that of its
own task. Three facts together make it certain, and where one is missing it is another worker:

* No try to come back has failed. A worker that ends closes its port, and connections are refused.
* The same listening socket took both connections. The kernel numbers sockets and does not use a number
  again; a worker that was started in between, however fast, has a socket with another number. Containers of
  a pod share their network, so the table of its sockets shows the worker's as well. A worker elsewhere
  cannot be seen, and is never certain.
* The connection is back within RESTART_S. That is for what only passes connections on to a worker, such as
  the published port of a container: its socket stays while the worker behind it is started again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Callable
from urllib.parse import urlsplit

#: Sooner than HKube's worker can be back. Node with the package `ws` alone takes 70 ms until it listens
#: (measured); HKube's services, which load hundreds of packages and connect to etcd and redis, over 1 s.
RESTART_S = 0.25

#: Wait at most this long for the kernel, which answers at once.
ANSWER_S = 1.0
#: linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, _NLMSG_ERROR, _NLMSG_DONE = 4, 20, 0x301, 2, 3
_LISTENS = 1 << 10
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST = struct.Struct("=BBBxIH")  # inet_diag_req_v2 up to the port in the order of the network
_REQUEST_SIZE = 56
_ANSWER = struct.Struct("=4x4x16s16x4x8x16xI")  # inet_diag_msg: the socket's own address, and its number

#: The sockets that listen at one port: address and number of each.
Listening = frozenset[tuple[str, int]]


class Identity:
    """What is known about the worker, over all connections to it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: Whether the worker of this connection is certainly the one that had sent messages before the drop.
        self.is_certain = False
        self._listener: int | None = None  #: the socket that took this connection
        self._known: int | None = None  #: the one that took the last connection, if its worker was known
        self._dropped_at = 0.0
        self._was_away = False  #: whether an attempt to come back has failed

    def connected(self, listener: int | None) -> None:
        """Judge the worker of a new connection; `listener`: number of the socket that took it, if known."""
        self._listener = listener
        self.is_certain = (
            self._known is not None
            and listener == self._known
            and not self._was_away
            and self._clock() - self._dropped_at < RESTART_S
        )

    def failed(self) -> None:
        """Note that an attempt to connect has failed."""
        self._was_away = True

    def dropped(self, *, spoken: bool) -> None:
        """Note that the connection is lost; `spoken`: its worker had sent a message, and so is known."""
        # A worker of unknown identity that sent nothing stays unknown, and so does the next one.
        self._known = self._listener if spoken or self.is_certain else None
        self.is_certain, self._was_away = False, False
        self._dropped_at = self._clock()


def port_of(url: str) -> int:
    """Return the port that a connection to `url` is made to."""
    return urlsplit(url).port or (443 if url.startswith("wss:") else 80)


def listening_at(port: int) -> Listening:
    """Return the sockets of this machine, or this pod, that listen at the port; none if unknown."""
    # sock_diag(7), because reading /proc/net/tcp takes 4 ms (measured): the kernel goes through the table of
    # all connections for it.
    found: set[tuple[str, int]] = set()
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock,
    ):
        sock.settimeout(ANSWER_S)
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _LISTENS, socket.htons(port))
            size = _HEADER.size + _REQUEST_SIZE
            head = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, family, 0)
            sock.send(head + request.ljust(_REQUEST_SIZE, b"\0"))
            while not _add_sockets(sock.recv(65536), family, found):
                pass
    return frozenset(found)


def _add_sockets(data: bytes, family: int, found: set[tuple[str, int]]) -> bool:
    """Add the sockets in one answer of the kernel; return whether it was the last one."""
    while len(data) >= _HEADER.size:
        size, kind, _, _, _ = _HEADER.unpack_from(data)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR) or size < _HEADER.size:
            return True
        address, number = _ANSWER.unpack_from(data, _HEADER.size)
        found.add((socket.inet_ntop(family, address[: 4 if family == socket.AF_INET else 16]), number))
        data = data[(size + 3) & ~3 :]
    return False


def listener_of(sock: socket.socket, port: int, before: Listening) -> int | None:
    """Return the number of the listening socket that took this connection; None if that is not certain.

    `before`: what listened at the port before the connection was begun.
    """
    try:
        own, peer = _ip(sock.getsockname()[0]), _ip(sock.getpeername()[0])
        peer_port = sock.getpeername()[1]
    except (OSError, ValueError, IndexError, TypeError):
        return None  # closed by now, or no TCP
    if own != peer and not (own.is_loopback and peer.is_loopback):
        return None  # on another machine
    if peer_port != port or listening_at(port) != before:
        return None  # a proxy, a redirect; or the port changed hands meanwhile
    # The order in which the kernel looks; of several at one address it takes any.
    ways = [str(peer), "0.0.0.0", "::"] if peer.version == 4 else [str(peer), "::"]
    for way in ways:
        numbers = [number for address, number in before if str(_ip(address)) == way]
        if numbers:
            return numbers[0] if len(numbers) == 1 and numbers[0] != 0 else None
    return None


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(text.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
