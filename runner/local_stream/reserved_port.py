"""A port for the next nodes, chosen before the socket process binds it."""

from __future__ import annotations

import socket

from ..streaming.stream_settings import LOOPBACK


class ReservedPort:
    """A port of the loopback address that no other program gets until close().

    It is bound by a socket that does not listen. ZeroMQ can listen at it nevertheless, since both sockets
    have SO_REUSEADDR; and again after the socket process was replaced.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Leave the port to others."""
        self._socket.close()
