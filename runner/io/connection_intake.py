"""Ends connections of a ZeroMQ socket on which more comes than a message may have.

ZeroMQ limits the length of a frame (MAXMSGSIZE) and the number of whole messages that wait (RCVHWM). But a
message may have any number of frames, which it holds until the last one has come: a peer that sends frames
without end would fill the memory. So this counts, for each connection, the bytes that the kernel has received
since the last whole message (TCP_INFO), and closes the connection on which there are too many.

An empty frame of 2 bytes takes 64 bytes of memory: where a message may be large, the memory is watched, too.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct

#: Between two checks of the connections. Until then ZeroMQ reads some 300 MB, or a few MB in tiny frames.
CHECK_S = 0.2
#: The memory may grow by the first for other reasons, and by the second for each byte received.
GROWTH_MIN, GROWTH_FACTOR = 256 * 1024 * 1024, 4
#: Less than that is no reason for any growth.
WATCHED_MIN = 1024 * 1024
#: tcpi_bytes_received in struct tcp_info of Linux 4.1 and newer.
_RECEIVED, _INFO_BYTES = struct.Struct("=Q"), 256
_RECEIVED_AT = 128
#: struct linger: closing does not wait, it resets the connection.
_RESET = struct.pack("=ii", 1, 0)
#: The begin of an event of ZeroMQ's monitor: which one, and its value.
_EVENT = struct.Struct("=HI")


def event_of(frame: bytes) -> tuple[int, int]:
    """Return the event that the first frame of a monitor's message tells of, and its value: a descriptor."""
    event, value = _EVENT.unpack(frame)
    return event, value


class WatchedConnection:
    """A connection, by the address of its other end: its descriptor is ZeroMQ's, which may close it."""

    def __init__(self, peer: object, received: int) -> None:
        self.peer = peer
        self.received = received  #: bytes by the time of its last whole message
        self.memory: int | None = None  #: of the process, at that time


class ConnectionIntake:
    """The connections of one socket."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes`: of a message, with the heads of its frames."""
        self._most = most_bytes
        self._connections: dict[int, WatchedConnection] = {}
        self._heard: set[int] = set()  #: connections with a whole message since the last check

    def __bool__(self) -> bool:
        """Whether there is anything to check."""
        return bool(self._connections)

    def opened(self, fd: int) -> None:
        """ZeroMQ has a new connection with this descriptor (EVENT_ACCEPTED, EVENT_CONNECTED)."""
        with contextlib.suppress(OSError), _borrowed(fd) as sock:
            self._connections[fd] = WatchedConnection(sock.getpeername(), _received(sock))

    def took(self, fd: int) -> None:
        """A whole message has come on the connection with this descriptor (SRCFD of a frame)."""
        self._heard.add(fd)

    def took_from_all(self) -> None:
        """A whole message has come on the only connection."""
        self._heard.update(self._connections)

    def check(self, memory: int = 0) -> int:
        """Close the connections on which too much waits; return how many.

        `memory`: what the process has for no other reason that is known.
        """
        closed = 0
        for fd, one in list(self._connections.items()):
            try:
                with _borrowed(fd) as sock:
                    if sock.getpeername() != one.peer:
                        raise OSError("the descriptor is another one's by now")
                    received = _received(sock)
                    if fd in self._heard:
                        one.received, one.memory = received, None
                    if one.memory is None:
                        one.memory = memory
                    waiting = received - one.received
                    most_memory = one.memory + GROWTH_MIN + waiting * GROWTH_FACTOR
                    if waiting > self._most or (waiting > WATCHED_MIN and memory > most_memory):
                        # ZeroMQ reads the end, frees what came, and closes the socket: with a reset, since
                        # the other side waits for room to send more, and would learn nothing from an end.
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        sock.shutdown(socket.SHUT_RDWR)
                        closed += 1
                        raise OSError("it is closed")
            except OSError:
                del self._connections[fd]
        self._heard.clear()
        return closed


def private_bytes() -> int:
    """Return the memory of this process alone."""
    with open("/proc/self/statm", "rb") as file:
        _, resident, shared = map(int, file.read().split()[:3])
    return (resident - shared) * resource.getpagesize()


def _borrowed(fd: int) -> socket.socket:
    """Return a socket of a descriptor's copy. Raises OSError."""
    copy = os.dup(fd)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _received(sock: socket.socket) -> int:
    """Return how many bytes the kernel has received; 0 where it does not say."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    return int(_RECEIVED.unpack_from(info, _RECEIVED_AT)[0]) if len(info) >= _RECEIVED_AT + 8 else 0
