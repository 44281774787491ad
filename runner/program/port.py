"""The loopback port that a program connects to: it takes one connection of that program, and no other."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable

from ...sandbox.linux import tcp_peer
from ..io.loop import Loop
from . import handshake

HOST = "127.0.0.1"
#: Most connections whose request is not complete. For a further one the oldest is closed.
REQUESTS_MAX = 16
#: Where hkrunner may open no more files, the program's connection waits for this long.
RETRY_S = 0.5


class ProgramPort:
    """Listens until close(); the connection that it accepts is the callee's."""

    def __init__(
        self,
        loop: Loop,
        encoding: str,
        *,
        pids: Callable[[], Iterable[int]],
        on_connected: Callable[[socket.socket], None],
        on_refused: Callable[[str], None],
    ) -> None:
        """`pids`: the processes of the program. Raises OSError when no port is free."""
        self._loop = loop
        self._encoding = encoding
        self._pids = pids
        self._on_connected = on_connected
        self._on_refused = on_refused
        self._path = f"/{os.urandom(16).hex()}"
        self._is_taken = False
        self._requests: dict[socket.socket, bytearray] = {}
        self._listener: socket.socket | None = socket.create_server((HOST, 0))
        self._listener.setblocking(False)
        self._number: int = self._listener.getsockname()[1]

    @property
    def variables(self) -> dict[str, str]:
        """The environment that HKube's wrappers, and clients written like them, read."""
        return {
            "WORKER_SOCKET_PROTOCOL": "ws",
            "WORKER_SOCKET_HOST": HOST,
            "WORKER_SOCKET_PORT": str(self._number),
            # Nobody but the program knows the path.
            "WORKER_SOCKET_URL": f"ws://{HOST}:{self._number}{self._path}",
            "WORKER_ALGORITHM_ENCODING": self._encoding,
            "WORKER_ALGORITHM_PROTOCOL": "ws",
            "STORAGE_PROTOCOL": "v1",
        }

    def open(self) -> None:
        """Take connections from now on."""
        if self._listener is not None:
            self._loop.on_readable(self._listener, self._accept)

    def close(self) -> None:
        """Close the port, and the connections that are not accepted yet."""
        for sock in list(self._requests):
            self._drop(sock)
        if self._listener is not None:
            self._loop.on_readable(self._listener, None)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        assert self._listener is not None, "it is watched until close()"
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # it has disconnected meanwhile
            return
        except OSError:  # we may open no more files
            self._loop.on_readable(self._listener, None)
            self._loop.after(RETRY_S, self.open)
            return
        sock.setblocking(False)
        if len(self._requests) == REQUESTS_MAX:
            self._drop(next(iter(self._requests)))
        self._requests[sock] = bytearray()
        self._loop.on_readable(sock, lambda: self._read(sock))

    def _read(self, sock: socket.socket) -> None:
        data = self._requests[sock]
        try:
            part = sock.recv(handshake.REQUEST_MAX)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        data += part
        if not part or len(data) > handshake.REQUEST_MAX:
            self._drop(sock)
        elif handshake.complete(data):
            self._answer(sock, data)

    def _answer(self, sock: socket.socket, data: bytearray) -> None:
        try:
            request = handshake.read(data)
            reason = self._refusal(sock, request)
        except ValueError as error:
            reason = str(error)
        if reason:
            with contextlib.suppress(OSError):
                sock.send(handshake.refused(reason))
            self._drop(sock)
            self._on_refused(f"a connection to the algorithm's own port was refused: {reason}")
            return
        self._loop.on_readable(sock, None)
        del self._requests[sock]
        self._is_taken = True
        # A new connection takes these few bytes at once, unless its client is gone.
        with contextlib.suppress(OSError):
            sock.send(handshake.accepted(request.key))
        self._on_connected(sock)

    def _refusal(self, sock: socket.socket, request: handshake.Upgrade) -> str:
        """Return why this client is refused, "" if it is not."""
        if self._is_taken:
            return "the program has a connection already, and gets no second one"
        if request.path != self._path and not self._is_of_program(sock):
            return "it is not of a process of the program"
        encoding = request.query.get("encoding", self._encoding)
        if encoding != self._encoding:
            return f"it asks for encoding={encoding}, and the worker's messages are in {self._encoding}"
        storage = request.query.get("storage", "v1")
        if storage != "v1":
            return f"it asks for storage={storage}, and only v1 is served"
        return ""

    def _is_of_program(self, sock: socket.socket) -> bool:
        try:
            peer_port = sock.getpeername()[1]
        except OSError:  # it is gone
            return False
        return tcp_peer.is_of(self._pids(), port=self._number, peer_port=peer_port)

    def _drop(self, sock: socket.socket) -> None:
        self._loop.on_readable(sock, None)
        del self._requests[sock]
        sock.close()
