"""One WebSocket connection of a client, by websockets' protocol core, which does no I/O of its own.

The query of the URL chooses the encoding, as with HKube's worker.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ...sandbox.codec import ENCODINGS
from ..io.loop import Loop
from .protocol_core import Frame, Opcode, Request, ServerProtocol, WireState

#: Bytes read at a time.
CHUNK = 256 * 1024


@dataclass
class ConnectionListener:
    """Callbacks for what happens on a connection."""

    on_ready: Callable[[ClientConnection], None]  #: after the handshake
    on_message: Callable[[bytes], None]
    on_gone: Callable[[ClientConnection, str], None]
    on_problem: Callable[[str], None]


class ClientConnection:
    """The connection of one client."""

    def __init__(
        self, loop: Loop, sock: socket.socket, listener: ConnectionListener, storages: tuple[str, ...]
    ) -> None:
        """`storages`: the versions of the storage protocol that a client may ask for."""
        self._loop = loop
        self._socket = sock
        self._listener = listener
        self._protocol = ServerProtocol(max_size=None)
        self._out: deque[memoryview] = deque()
        self._parts: list[bytes] = []
        self._storages = storages
        self.storage = "v1"
        self.encoding = "json"
        self.ready = False
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.on_readable(sock, self._read)

    def send(self, data: bytes) -> None:
        """Send one encoded message; dropped if the client has disconnected."""
        if self._protocol.state is not WireState.OPEN:
            return
        if self.encoding == "json":
            self._protocol.send_text(data)
        else:
            self._protocol.send_binary(data)
        self._flush()

    def close(self) -> None:
        """Close the socket; on_gone is not called."""
        self._loop.on_readable(self._socket, None)
        self._loop.on_writable(self._socket, None)
        self._socket.close()

    def _gone(self, reason: str) -> None:
        if self._socket.fileno() >= 0:
            self.close()
            self._listener.on_gone(self, reason)

    def _read(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._gone(error.strerror or str(error))
            return
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._shake_hands(event)
            else:
                self._add_frame(event)
            if self._socket.fileno() < 0:
                return
        self._flush()
        if not data:
            self._gone("connection closed")

    def _shake_hands(self, request: Request) -> None:
        query = parse_qs(urlsplit(request.path).query)
        self.encoding = query.get("encoding", ["json"])[0]
        self.storage = query.get("storage", ["v1"])[0]
        if self.encoding not in ENCODINGS or self.storage not in self._storages:
            self._listener.on_problem(
                f"a client asked for encoding={self.encoding}, storage={self.storage}; "
                f"available are the encodings {', '.join(ENCODINGS)}, and storage {', '.join(self._storages)}"
                " (HKube's wrappers read STORAGE_PROTOCOL)"
            )
            self._protocol.send_response(self._protocol.reject(400, "encoding or storage not served\n"))
            return
        self._protocol.send_response(self._protocol.accept(request))
        if self._protocol.state is WireState.OPEN:
            self._flush()
            if self._socket.fileno() < 0:
                return  # it has disconnected meanwhile
            self.ready = True
            self._listener.on_ready(self)

    def _add_frame(self, event: Any) -> None:
        if not isinstance(event, Frame) or event.opcode > 0x2:
            return  # the protocol core answers pings and close frames
        if event.opcode is not Opcode.CONT:
            self._parts.clear()
        self._parts.append(bytes(event.data))
        if not event.fin:
            return
        data = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
        self._parts.clear()
        self._listener.on_message(data)

    def _flush(self) -> None:
        self._out.extend(memoryview(data) for data in self._protocol.data_to_send() if data)
        closing = self._protocol.close_expected() and not self._out
        try:
            while self._out:
                sent = self._socket.send(self._out[0])
                if sent == len(self._out[0]):
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][sent:]
        except BlockingIOError:
            self._loop.on_writable(self._socket, self._flush)
            return
        except OSError as error:
            self._gone(error.strerror or str(error))
            return
        self._loop.on_writable(self._socket, None)
        if closing:
            self._gone("closed by the client")
