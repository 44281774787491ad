"""The algorithm's side of `--net HOST:PORT`: listening sockets inside its network namespace, one per target.

The algorithm connects to a target as it would outside. An address is one of its own interface `lo`; a name
leads, by its hosts file, to an address of 127.0.88.0/24. The listening sockets are served outside of the
namespace (forwarder.py), so there is no other way out: no DNS, no UDP, no raw sockets.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Sequence

from ..shared.net_target import NetTarget, net_target

#: The name that every hosts file has.
_LOCALHOST = "localhost"
_NAMED = "127.0.88.{}"
_BACKLOG = 128
_FIN_TIMEOUT = "/proc/sys/net/ipv4/tcp_fin_timeout"

#: include/uapi/linux/rtnetlink.h, if_addr.h, netlink.h
_RTM_NEWADDR, _NLMSG_ERROR = 20, 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 1, 4, 0x400
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 2
#: `lo` is the first interface of every network namespace.
_LO = 1


def listen(targets: Sequence[str]) -> dict[int, socket.socket]:
    """Return the listening sockets, by the place of their target. Raises OSError.

    Of two targets with the same address inside, such as localhost and 127.0.0.1, only the first has a socket.
    This process is in its own network namespace, and may still administer it.
    """
    _forget_closed_connections_soon()
    wanted = [net_target(one) for one in targets]
    named = _addresses_of_names(wanted)
    listening: dict[int, socket.socket] = {}
    added = set()
    taken = set()
    for place, target in enumerate(wanted):
        bound = (named.get(target.host, target.host), target.port)
        if bound in taken:
            continue
        taken.add(bound)
        address = target.address
        if address is not None and not address.is_loopback and address not in added:
            _add_to_loopback(address.packed)
            added.add(address)
        family = socket.AF_INET6 if address is not None and address.version == 6 else socket.AF_INET
        one = socket.socket(family, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(bound)
        one.listen(_BACKLOG)
        listening[place] = one
    return listening


def hosts_lines(targets: Iterable[str]) -> str:
    """Return the lines of the algorithm's hosts file by which it finds the names."""
    found = _addresses_of_names([net_target(one) for one in targets])
    return "".join(f"{address}\t{name}\n" for name, address in found.items() if name != _LOCALHOST)


def _addresses_of_names(targets: Iterable[NetTarget]) -> dict[str, str]:
    """Return name -> the address at which it is found inside, where no target has that address itself."""
    hosts = {one.host: one.address for one in targets}
    names = [host for host, address in hosts.items() if address is None and host != _LOCALHOST]
    free = (address for number in range(1, 255) if (address := _NAMED.format(number)) not in hosts)
    return {_LOCALHOST: "127.0.0.1", **dict(zip(names, free, strict=False))}


def _forget_closed_connections_soon() -> None:
    """Have the kernel refuse a probe of a connection that the algorithm has closed after 2 s, not after 60 s.

    So the forwarder finds out. Where /proc/sys is read-only, as in most containers, it takes the 60 s.
    """
    with contextlib.suppress(OSError), open(_FIN_TIMEOUT, "w") as file:
        file.write("2")


def _add_to_loopback(packed: bytes) -> None:
    """Make this address, of IPv4 or IPv6, one of the interface `lo`. Raises OSError."""
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = struct.pack("=BBBBi", family, 8 * len(packed), _IFA_F_NODAD, 0, _LO)
    for kind in (_IFA_LOCAL, _IFA_ADDRESS):
        body += struct.pack("=HH", 4 + len(packed), kind) + packed
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as one:
        one.sendto(struct.pack("=IHHII", 16 + len(body), _RTM_NEWADDR, flags, 1, 0) + body, (0, 0))
        answer = one.recv(4096)
    _, kind, _, _, _, code = struct.unpack_from("=IHHIIi", answer)
    if kind == _NLMSG_ERROR and code:
        raise OSError(-code, os.strerror(-code))
