"""Peers that answer requests for results with what is no reply; uses nothing of hkrunner."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import zmq

from .ports import free_ports


class BadPeer:
    """A data server that answers pings well, and each request with these frames."""

    def __init__(self, frames: list[bytes]) -> None:
        self.port = free_ports()
        self._frames = frames
        self._context = zmq.Context()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="bad-peer")
        self._sockets = [self._bind(self.port), self._bind(self.port + 1)]
        self.asked = 0

    def _bind(self, port: int) -> Any:
        sock = self._context.socket(zmq.ROUTER)
        sock.linger = 0
        sock.bind(f"tcp://127.0.0.1:{port}")
        return sock

    def _serve(self) -> None:
        data, ping = self._sockets
        poller = zmq.Poller()
        poller.register(data, zmq.POLLIN)
        poller.register(ping, zmq.POLLIN)
        while not self._stop.is_set():
            for sock, _ in poller.poll(50):
                sender, empty, _ = sock.recv_multipart()
                if sock is data:
                    self.asked += 1
                sock.send_multipart([sender, empty, *(self._frames if sock is data else [b"pong"])])

    def __enter__(self) -> BadPeer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()
        self._context.term()


@contextlib.contextmanager
def half_a_frame() -> Iterator[int]:
    """Run a peer that begins ZeroMQ's greeting and then says nothing; yield its port."""
    port = free_ports()
    accepted: list[socket.socket] = []

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                accepted.append(sock)
                with contextlib.suppress(OSError):  # it has gone; others come
                    sock.sendall(b"\xff\0\0\0\0")

    with (
        socket.create_server(("127.0.0.1", port)) as data,
        socket.create_server(("127.0.0.1", port + 1)) as ping,
    ):
        threads = [threading.Thread(target=accept, args=(one,), daemon=True) for one in (data, ping)]
        for thread in threads:
            thread.start()
        try:
            yield port
        finally:
            for listener in (data, ping):
                listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            for sock in accepted:
                sock.close()


def zmtp_greeting(kind: bytes) -> bytes:
    """Return what a ZeroMQ socket of this kind says first: ZMTP 3.0 without security."""
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    signature = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    return signature + b"\x04" + bytes([len(ready)]) + ready


class EndlessSender:
    """A connection on which a message begins and never ends: empty frames, each with more to come."""

    def __init__(self, sock: socket.socket, kind: bytes) -> None:
        self._socket = sock
        self._heard = b""
        sock.sendall(zmtp_greeting(kind))
        sock.setblocking(False)

    def goes_on(self) -> bool:
        """Send more, once the other side is ready; return whether it has not closed the connection."""
        try:
            if b"READY" not in self._heard:
                self._heard += self._socket.recv(65536)
                return True
            self._socket.send(b"\x01\x00" * 20_000)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


@contextlib.contextmanager
def endless_reply() -> Iterator[int]:
    """Run a peer that answers a request with frames, each with more to come; yield its port.

    ZeroMQ's own sockets send no part of a message before its end: this one speaks ZMTP 3.0 by itself.
    """
    port = free_ports()
    stop = threading.Event()
    frame = b"\x03" + (500_000).to_bytes(8, "big") + bytes(500_000)

    def serve(listener: socket.socket, reply: bytes, more: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    sock.settimeout(20)  # for a reader on a busy machine
                    sock.sendall(zmtp_greeting(b"ROUTER"))
                    _read_until(sock, b"\x00\x04ping" if reply else b"tasks")
                    sock.sendall(b"\x01\x00" + reply)
                    while more and not stop.is_set():
                        sock.sendall(more)
                    sock.recv(1)

    with (
        socket.create_server(("127.0.0.1", port)) as data,
        socket.create_server(("127.0.0.1", port + 1)) as ping,
    ):
        threads = [
            threading.Thread(target=serve, args=args, daemon=True)
            for args in ((data, b"", frame), (ping, b"\x00\x04pong", b""))
        ]
        for thread in threads:
            thread.start()
        try:
            yield port
        finally:
            stop.set()
            for listener in (data, ping):
                listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def _read_until(sock: socket.socket, wanted: bytes) -> None:
    """Read what comes until these bytes are among it. Raises OSError."""
    found = b""
    while wanted not in found:
        part = sock.recv(65536)
        if not part:
            raise OSError("the connection has ended")
        found += part
