"""The first two packets of a worker that serves socket.io 2, received in the connecting thread.

They are read exactly: what comes after them is for the loop, and stays in the socket.
"""

from __future__ import annotations

import json
import math
import socket
import time
from typing import NamedTuple

from ..protocol.messages import printable
from .frames import CLOSE, PING, PONG, TEXT, Refused, frame

#: Both packets have to be here within this time; websocket-client has taken its own before.
GREETING_S = 8.0
#: Largest packet in a greeting.
_PACKET_MAX = 64 * 1024
#: Shortest and longest interval between pings, whatever the worker asks for.
_INTERVAL_MIN_S, _INTERVAL_MAX_S = 0.05, 600.0


class Greeting(NamedTuple):
    """What the worker's open packet says."""

    ping_interval_s: float
    ping_timeout_s: float


def receive_greeting(sock: socket.socket) -> Greeting:
    """Receive the open packet, and the one that opens the default namespace. Raises Refused or OSError."""
    until = time.monotonic() + GREETING_S
    greeting = _read_open(_next_packet(sock, until, "its open packet of socket.io"))
    while True:
        packet = _next_packet(sock, until, "the packet of socket.io 2 that opens the namespace")
        if packet.startswith(b"40"):
            return greeting
        if packet.startswith(b"44"):
            raise Refused(f"the worker refused the connection: {_shown(packet[2:])}")
        if packet[:2] == b"41" or packet[:1] == b"1":
            raise Refused("the worker closed the connection before it opened the namespace of socket.io")
        if packet[:1] != b"6":
            raise Refused(f"the worker sent what does not open socket.io 2: {_shown(packet)}")


def _read_open(packet: bytes) -> Greeting:
    if packet[:1] != b"0":
        raise Refused(
            f"the worker sent what is no open packet of socket.io 2: {_shown(packet)}"
            " (--transport ws is for HKube's plain WebSocket)"
        )
    try:
        facts = json.loads(packet[1:])
        sid = facts.get("sid")
        if type(sid) is not str or not sid:
            raise ValueError("it has no sid")
        return Greeting(_seconds(facts, "pingInterval"), _seconds(facts, "pingTimeout"))
    except (ValueError, AttributeError, RecursionError) as error:
        text = "it is no object of JSON" if not isinstance(error, ValueError) else printable(str(error))
        raise Refused(f"the worker sent a wrong open packet: {text}: {_shown(packet)}") from None


def _seconds(facts: dict[str, object], name: str) -> float:
    value = facts.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"it has no {name}")
    return min(max(float(min(value, 1e9)) / 1000, _INTERVAL_MIN_S), _INTERVAL_MAX_S)


def _next_packet(sock: socket.socket, until: float, due: str) -> bytes:
    """Return the next text message; answer pings of the WebSocket meanwhile."""
    while True:
        first, second = _read(sock, 2, until, due)
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(_read(sock, 2 if length == 126 else 8, until, due), "big")
        if second & 0x80 or first & 0x70 or not first & 0x80:
            raise Refused(f"the worker sent a frame that cannot be {due}")
        if length > _PACKET_MAX:
            raise Refused(f"the worker announced {length:,} bytes where {due} is due", too_large=True)
        data = _read(sock, length, until, due)
        opcode = first & 0x0F
        if opcode == TEXT:
            return data
        if opcode == CLOSE:
            code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 1005
            text = printable(data[2:].decode("utf-8", "replace"))
            raise Refused(
                f"the worker closed the connection ({code}{': ' + text if text else ''}) before {due}"
            )
        if opcode == PING and length <= 125:
            sock.sendall(frame(PONG, data))
        elif opcode != PONG:
            raise Refused(f"the worker sent a frame that cannot be {due}")


def _read(sock: socket.socket, size: int, until: float, due: str) -> bytes:
    """Return exactly this many bytes."""
    data = bytearray()
    while len(data) < size:
        left_s = until - time.monotonic()
        try:
            if left_s <= 0:
                raise TimeoutError
            sock.settimeout(left_s)
            part = sock.recv(size - len(data))
        except TimeoutError:
            raise Refused(
                f"the worker has not sent {due} within {GREETING_S:g} s; does it serve socket.io 2?"
            ) from None
        if not part:
            raise Refused(f"the worker closed the connection before {due}")
        data += part
    return bytes(data)


def _shown(data: bytes) -> str:
    return repr(printable(data[:60].decode("utf-8", "replace")))
