"""How the storage process sends and receives its messages: see sandbox/shared/storage_messages.py.

It waits for each of them. hkrunner's side of the socket never waits: it is a MessageSocket of its loop.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import NamedTuple

from ...sandbox.shared.datagrams import DATAGRAM_MAX, datagram_of, message_of
from ...sandbox.shared.message_format import ProcessMessage

#: Bytes of each of the two texts in a RequestFailed.
TEXT_MAX = DATAGRAM_MAX * 3 // 10


class Datagram(NamedTuple):
    """A message, and the memfd with the bytes of a large one: the receiver's to close."""

    message: ProcessMessage
    fd: int = -1


def send(sock: socket.socket, datagram: Datagram) -> None:
    """Send it; the descriptor stays the caller's. Raises OSError."""
    socket.send_fds(sock, [datagram_of(datagram.message)], [datagram.fd] if datagram.fd >= 0 else [])


def receive(sock: socket.socket, known: Mapping[int, type[ProcessMessage]]) -> Datagram | None:
    """Return the next one, None when the other side is gone. Raises ChannelError."""
    try:
        data, fds, _, _ = socket.recv_fds(sock, DATAGRAM_MAX, 4, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    if not data:
        for fd in fds:
            os.close(fd)
        return None
    return Datagram(message_of(data, known), fds[0] if fds else -1)
