"""How the storage process sends and receives its messages: see sandbox/shared/storage_messages.py.

It waits for each of them. hkrunner's side of the socket never waits: it is a MessageSocket of its loop.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from typing import NamedTuple

from ...sandbox.shared.channel import fds_of, read_buffer
from ...sandbox.shared.datagrams import DATAGRAM_MAX, datagram_of, message_of
from ...sandbox.shared.message_format import ProcessMessage

#: Bytes of each of the two texts in a RequestFailed.
TEXT_MAX = DATAGRAM_MAX * 3 // 10
#: Room for the descriptors of a datagram, which has at most one.
_ANCILLARY_BYTES = socket.CMSG_LEN(4)


class Datagram(NamedTuple):
    """A message, and the memfd with the bytes of a large one: the receiver's to close."""

    message: ProcessMessage
    fd: int = -1


def send(sock: socket.socket, datagram: Datagram) -> None:
    """Send it; the descriptor stays the caller's. Raises OSError."""
    data = datagram_of(datagram.message)
    if datagram.fd >= 0:
        socket.send_fds(sock, [data], [datagram.fd])
    else:
        sock.send(data)


def receive(sock: socket.socket, known: Mapping[int, type[ProcessMessage]]) -> Datagram | None:
    """Return the next one, None when the other side is gone. Raises ChannelError."""
    scratch = _of_thread.scratch
    try:
        count, ancillary, _, _ = sock.recvmsg_into([scratch], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    fds = fds_of(ancillary) if ancillary else []
    if not count:
        for fd in fds:
            os.close(fd)
        return None
    return Datagram(message_of(scratch[:count], known), fds[0] if fds else -1)


class _OfThread(threading.local):
    """What each thread has for itself."""

    def __init__(self) -> None:
        # As in MessageSocket.
        self.scratch = read_buffer(DATAGRAM_MAX)


_of_thread = _OfThread()
