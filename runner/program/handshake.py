"""The request with which a WebSocket client begins (RFC 6455, 4.2), read and answered; no I/O."""

from __future__ import annotations

import base64
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

#: No WebSocket client sends a longer request.
REQUEST_MAX = 16 * 1024
_END = b"\r\n\r\n"
_ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Upgrade(NamedTuple):
    """What a client asks for."""

    key: str  #: to be answered, as a proof that we speak WebSocket
    path: str
    query: dict[str, str]


def complete(data: bytes | bytearray) -> bool:
    """Whether the whole request is there."""
    return _END in data


def read(data: bytes | bytearray) -> Upgrade:
    """Return what the request asks for. Raises ValueError when it is none of a WebSocket client."""
    head, _, rest = bytes(data).partition(_END)
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    key = headers.get("sec-websocket-key", "")
    if len(words) != 3 or words[0] != "GET" or headers.get("upgrade", "").lower() != "websocket" or not key:
        raise ValueError("it is no request of a WebSocket client")
    if rest:
        raise ValueError("it sent a frame before it was accepted")
    target = urlsplit(words[1])
    query = {name: values[0] for name, values in parse_qs(target.query).items()}
    return Upgrade(key, target.path, query)


def accepted(key: str) -> bytes:
    """Return the answer to a client that is accepted."""
    import hashlib  # late: only a run with a program needs it

    proof = base64.b64encode(hashlib.sha1(key.encode() + _ACCEPT, usedforsecurity=False).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return head + b"Sec-WebSocket-Accept: " + proof + _END


def refused(reason: str) -> bytes:
    """Return the answer to a client that is refused, with a sentence."""
    body = f"{reason}\n".encode()
    head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return head.encode() + b"Content-Type: text/plain; charset=utf-8" + _END + body
