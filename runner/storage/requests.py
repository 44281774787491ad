"""What hkrunner and its storage process say to each other: each request or answer is one datagram.

    hkrunner -> storage process   in `do`: configure, fetch, store, call, answer, cancel
    storage process -> hkrunner   an answer with the same id; with id 0, in `say`: note, serving, hanging

A datagram is a JSON object, a newline, and the bytes; more than INLINE_MAX of them are in a memfd that
travels with the datagram. The socket is a SOCK_SEQPACKET pair, so no datagram is cut or joined.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any, NamedTuple

#: Above this a memfd is cheaper than two copies through the socket.
INLINE_MAX = 64 * 1024
#: The longest datagram: the bytes, and the JSON of a failure with a long text.
DATAGRAM_MAX = 128 * 1024
#: Failures are cut to this many characters, of which each takes at most 6 bytes.
TEXT_MAX = 8000


class Message(NamedTuple):
    """A request or an answer. `fd` holds the bytes of a large one; it is the receiver's to close."""

    fields: dict[str, Any]
    data: bytes = b""
    fd: int = -1

    @property
    def size(self) -> int:
        """Number of the bytes."""
        return int(self.fields["size"]) if self.fd >= 0 else len(self.data)


def send(sock: socket.socket, message: Message) -> None:
    """Send the message; the descriptor stays the caller's. Raises OSError."""
    datagram = json.dumps(message.fields).encode() + b"\n" + message.data
    socket.send_fds(sock, [datagram], [message.fd] if message.fd >= 0 else [])


def receive(sock: socket.socket) -> Message | None:
    """Return the next message, None when the other side is gone. Raises BlockingIOError."""
    try:
        data, fds, _, _ = socket.recv_fds(sock, DATAGRAM_MAX, 4, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError:
        return None
    if not data:
        for fd in fds:
            os.close(fd)
        return None
    text, _, rest = data.partition(b"\n")
    return Message(json.loads(text), rest, fds[0] if fds else -1)
