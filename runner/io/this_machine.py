"""Addresses that no proxy can reach, because they are this machine's own."""

from __future__ import annotations

import ipaddress


def is_this_machine(host: str | None) -> bool:
    """Whether the host of a URL is this machine."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"
