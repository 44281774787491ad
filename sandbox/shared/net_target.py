"""A host and a port that --net opens to an algorithm with --sandbox strict."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

#: Most targets: the descriptors of all of them fit into one message (SCM_MAX_FD is 253).
MOST_TARGETS = 200
PORT_MAX = 65535
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")  # RFC 1035, 2.3.4
_HOST_MAX = 253


class NetTarget(NamedTuple):
    """Where the algorithm may connect to: a name, or an address in its usual form."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host, if it is an address; None for a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


def net_target(text: str) -> NetTarget:
    """Return what HOST:PORT names; an IPv6 address stands in brackets. Raises ValueError with the reason."""
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise ValueError("it has no port")
    if not re.fullmatch("[0-9]{1,5}", port_text) or not 0 < int(port_text) <= PORT_MAX:
        raise ValueError(f"a port is a number from 1 to {PORT_MAX}")
    is_bracketed = host[:1] == "[" and host[-1:] == "]"
    name = host[1:-1] if is_bracketed else host
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return NetTarget(_name(name), int(port_text))
    if address.version == 6:
        if not is_bracketed or address.scope_id:
            raise ValueError("write an IPv6 address in brackets, without a zone: [::1]:80")
        address = address.ipv4_mapped or address  # the kernel connects to that
    if address.is_unspecified or address.is_multicast:
        raise ValueError("nobody listens at this address")
    return NetTarget(str(address), int(port_text))


def _name(text: str) -> str:
    """Return the name as it is looked up. Raises ValueError if it can be none."""
    try:
        name = (text if text.isascii() else text.encode("idna").decode("ascii")).rstrip(".").lower()
    except UnicodeError:
        name = ""
    # A name of digits alone would be read as an address.
    if not _HOST.fullmatch(name) or len(name) > _HOST_MAX or name.replace(".", "").isdigit():
        raise ValueError(f"{text!r} is neither a name nor an address")
    return name
