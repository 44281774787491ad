"""Peers that answer requests for results with what is no reply; uses nothing of hkrunner."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import zmq


def free_ports() -> int:
    """Return a port that is free together with the next one."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port: int = first.getsockname()[1]
            stack.enter_context(socket.create_server(("127.0.0.1", port + 1)))
            return port


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
