"""The code that strict.py runs with and without a sandbox."""

from __future__ import annotations

import os
import socket
import time
from typing import Any


def start(args: dict[str, Any], api: Any) -> Any:
    order = args["input"][0]
    if order == "crash":
        os.abort()
    if not isinstance(order, dict):
        return order
    with socket.create_connection(("localhost", order["port"])) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return {"rtt_us": _round_trip_us(one, order["turns"]), "gb_per_s": _send(one, order["bytes"])}


def _round_trip_us(one: socket.socket, turns: int) -> float:
    began = time.perf_counter()
    for _ in range(turns):
        one.sendall(b"x")
        one.recv(1)
    return (time.perf_counter() - began) / turns * 1e6


def _send(one: socket.socket, size: int) -> float:
    """Return GB/s until the other side has everything."""
    data = bytes(1 << 20)
    began = time.perf_counter()
    for _ in range(size // len(data)):
        one.sendall(data)
    one.shutdown(socket.SHUT_WR)
    one.recv(1)
    return size / (time.perf_counter() - began) / 1e9
