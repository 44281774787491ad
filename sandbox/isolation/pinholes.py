"""The algorithm's side of `--net HOST:PORT`: listening sockets inside its network namespace, one per target.

The algorithm connects to a target as it would outside. An address is one of its own interface `lo`; a name
leads, by its hosts file, to an address of 127.0.88.0/24. The listening sockets are served outside of the
namespace (forwarder.py), so there is no other way out: no DNS, no UDP, no raw sockets.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Sequence

from ..shared.net_target import NetTarget, net_target

#: The name that every hosts file has.
_LOCALHOST = "localhost"
_NAMED = "127.0.88.{}"
_BACKLOG = 128

#: include/uapi/linux/rtnetlink.h, if_addr.h, netlink.h
_RTM_NEWADDR, _NLMSG_ERROR = 20, 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 1, 4, 0x400
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 2
#: `lo` is the first interface of every network namespace.
_LO = 1


def listen(targets: Sequence[str]) -> list[socket.socket]:
    """Return a listening socket for each target, in this order. Raises OSError.

    This process is in its own network namespace, and may still administer it.
    """
    wanted = [net_target(one) for one in targets]
    named = _addresses_of_names(wanted)
    listening = []
    added = set()
    for target in wanted:
        address = target.address
        if address is not None and not address.is_loopback and address not in added:
            _add_to_loopback(address.packed)
            added.add(address)
        family = socket.AF_INET6 if address is not None and address.version == 6 else socket.AF_INET
        one = socket.socket(family, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((named.get(target.host, target.host), target.port))
        one.listen(_BACKLOG)
        listening.append(one)
    return listening


def hosts_lines(targets: Iterable[str]) -> str:
    """Return the lines of the algorithm's hosts file by which it finds the names."""
    found = _addresses_of_names([net_target(one) for one in targets])
    return "".join(f"{address}\t{name}\n" for name, address in found.items() if name != _LOCALHOST)


def _addresses_of_names(targets: Iterable[NetTarget]) -> dict[str, str]:
    """Return name -> the address at which it is found inside."""
    names = dict.fromkeys(one.host for one in targets if one.address is None and one.host != _LOCALHOST)
    found = {name: _NAMED.format(index) for index, name in enumerate(names, 1)}
    return {_LOCALHOST: "127.0.0.1", **found}


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
