"""The process outside of the sandbox that connects the algorithm to the targets of `--net HOST:PORT`.

    algorithm -> its listening socket of pinholes.py -> this process -> target

It gets the listening sockets over its channel, and ends when the other end of that is closed. It looks a name
up for each connection, so that a target may move. Each direction of a connection has a thread, which moves
bytes within the kernel (splice).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import struct
import sys
import threading
from typing import NoReturn

from ..shared.net_target import NetTarget, net_target

#: Each one takes 6 descriptors and 2 threads. Further ones wait until one of these has ended.
MOST_CONNECTIONS = 500
_CONNECT_S = 30.0
#: What one call moves at most, and the size of a pipe: as much as a user may have.
_CHUNK = 1 << 20
_STACK_BYTES = 256 << 10
_RESET = struct.pack("ii", 1, 0)


class Forwarder:
    """Accepts the algorithm's connections, and connects each with its target."""

    def __init__(self, channel: socket.socket, targets: list[NetTarget]) -> None:
        self._channel = channel
        self._targets = targets
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._reported: set[str] = set()

    def run(self) -> NoReturn:
        """Serve the listening sockets that come over the channel, until that is closed."""
        while True:
            received, fds, _, _ = socket.recv_fds(self._channel, 1, len(self._targets))
            if not received:
                os._exit(0)  # with all connections
            for fd, target in zip(fds, self._targets, strict=True):
                self._begin(self._accept, socket.socket(fileno=fd), target)

    def _begin(self, act: object, *args: object) -> threading.Thread:
        thread = threading.Thread(target=act, args=args, daemon=True)  # type: ignore[arg-type]
        thread.start()
        return thread

    def _accept(self, listening: socket.socket, target: NetTarget) -> None:
        while True:
            self._free.acquire()
            try:
                inner, _ = listening.accept()
            except OSError as error:
                self._report(f"{target}: no further connection: {error.strerror}")
                return
            self._begin(self._connect, inner, target)

    def _connect(self, inner: socket.socket, target: NetTarget) -> None:
        """Connect to the target, and move bytes until both directions have ended."""
        try:
            with inner:
                try:
                    outer = socket.create_connection(target, _CONNECT_S)
                except OSError as error:
                    self._report(f"{target}: {error.strerror or error}")
                    _reset(inner)
                    return
                with outer:
                    outer.settimeout(None)
                    outer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    for one in (inner, outer):
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    answers = self._begin(_move, outer, inner)
                    _move(inner, outer)
                    answers.join()
        finally:
            self._free.release()

    def _report(self, text: str) -> None:
        """Say once what the algorithm sees as a connection that was closed."""
        if text not in self._reported:
            self._reported.add(text)
            with contextlib.suppress(OSError):
                os.write(2, f"hkrunner: --net {text}\n".encode())


def _move(source: socket.socket, sink: socket.socket) -> None:
    """Move bytes until the source has no more; an error ends both directions, as it would without us."""
    try:
        read, write = os.pipe2(os.O_CLOEXEC)
    except OSError:
        _reset(source, sink)
        return
    try:
        with contextlib.suppress(OSError):  # the user has too many large pipes: a small one does it, too
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _CHUNK)
        while count := os.splice(source.fileno(), write, _CHUNK):
            while count:
                count -= os.splice(read, sink.fileno(), count)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        _reset(source, sink)
    finally:
        os.close(read)
        os.close(write)


def _reset(*sockets: socket.socket) -> None:
    """Have the other side see an error, not an orderly end, when these are closed; nobody waits for them."""
    for one in sockets:
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            one.shutdown(socket.SHUT_RD)


def main() -> NoReturn:
    """Serve: `start.py forwarder FD TARGET...`."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    threading.stack_size(_STACK_BYTES)
    channel = socket.socket(fileno=int(sys.argv[2]))
    Forwarder(channel, [net_target(one) for one in sys.argv[3:]]).run()
