"""The process outside of the sandbox that connects the algorithm to the targets of `--net HOST:PORT`.

    algorithm -> its listening socket of pinholes.py -> this process -> target

It gets the listening sockets over its channel, and ends when the other end of that is closed. It looks a name
up for each connection, so that a target may move. Each target has a thread that accepts, and each connection
one that moves bytes within the kernel (splice), in both directions.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import fcntl
import os
import resource
import select
import socket
import struct
import sys
import threading
import time
from typing import NamedTuple, NoReturn

from ..shared.net_target import NetTarget, net_target

#: Most connections at a time, each with 2 to 6 descriptors and a thread; further ones wait.
MOST_CONNECTIONS = 500
_CONNECT_S = 30.0
#: Most bytes that one call moves, and the size of a pipe.
_CHUNK = 512 << 10
#: Most empty pipes that are kept.
_MOST_EMPTY = 16
_STACK_BYTES = 256 << 10
#: struct linger: close with a reset.
_RESET = struct.pack("ii", 1, 0)
#: Pause after an error that would most likely repeat at once, such as too many open files.
_PAUSE_S = 0.1
#: Keepalive probes of a connection: seconds before the first, seconds between two, and their number.
_TARGET_PROBES = (60, 10, 6)
_ENDED_PROBES = (1, 1, 3)
_BROKEN = select.POLLERR | select.POLLNVAL


class Forwarder:
    """Accepts the algorithm's connections, and connects each with its target."""

    def __init__(self, channel: socket.socket, targets: list[NetTarget]) -> None:
        self._channel = channel
        self._targets = targets
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._pipes = _Pipes()
        self._reported: set[str] = set()

    def run(self) -> NoReturn:
        """Serve the listening sockets that come over the channel, until that is closed."""
        while True:
            # A byte for each socket: the place of its target.
            places, fds, _, _ = socket.recv_fds(self._channel, len(self._targets), len(self._targets))
            if not places:
                os._exit(0)  # with all connections
            for place, fd in zip(places, fds, strict=True):
                _thread.start_new_thread(self._accept, (socket.socket(fileno=fd), self._targets[place]))

    def _accept(self, listening: socket.socket, target: NetTarget) -> None:
        """Accept connections for the target. An error concerns one connection, not those after it."""
        while True:
            try:
                inner, _ = listening.accept()
            except OSError as error:
                self._report(f"{target}: a connection waits: {error.strerror}")
                time.sleep(_PAUSE_S)
                continue
            self._begin(inner, target)
            del inner  # it is the thread's, and closed with it

    def _begin(self, inner: socket.socket, target: NetTarget) -> None:
        """Start a thread for the connection, once fewer than MOST_CONNECTIONS have one."""
        if not self._free.acquire(blocking=False):
            self._report(f"{target}: a connection waits, since {MOST_CONNECTIONS} are open")
            self._free.acquire()
        permit = _Permit(self._free)
        try:
            # Not Thread.start(): it waits for ever for a thread that finds no memory.
            _thread.start_new_thread(self._serve, (inner, target, permit))
        except (RuntimeError, MemoryError) as error:
            self._report(f"{target}: {str(error) or 'out of memory'}")
            _reset(inner)
            inner.close()

    def _serve(self, inner: socket.socket, target: NetTarget, permit: _Permit) -> None:
        """Connect to the target, and move bytes until both directions have ended."""
        with inner:
            try:
                with socket.create_connection(target, _CONNECT_S) as outer:
                    _probe(outer, *_TARGET_PROBES)
                    _Connection(inner, outer, self._pipes).run()
            except OSError as error:
                self._report(f"{target}: {error.strerror or error}")
                _reset(inner)

    def _report(self, text: str) -> None:
        """Say once what the algorithm sees as a connection that was closed, or that waits."""
        if text not in self._reported:
            self._reported.add(text)
            with contextlib.suppress(OSError):
                os.write(2, f"hkrunner: --net {text}\n".encode())


class _Permit:
    """The right to one of MOST_CONNECTIONS, given back when nothing refers to it any more.

    A thread that finds no memory for its first line runs no `finally`.
    """

    def __init__(self, free: threading.BoundedSemaphore) -> None:
        self._free = free

    def __del__(self) -> None:
        self._free.release()


class _Pipe(NamedTuple):
    """A pipe, by its descriptors."""

    read: int
    write: int


class _Pipes:
    """The empty pipes. A connection has one only while bytes wait in it: few are enough for many connections.

    A user may have 64 MiB of pipes (pipe(7)); beyond that, all the user's new pipes would be very small.
    """

    def __init__(self) -> None:
        self._empty: list[_Pipe] = []

    def take(self) -> _Pipe:
        """Return an empty pipe. Raises OSError when there is none."""
        with contextlib.suppress(IndexError):
            return self._empty.pop()
        pipe = _Pipe(*os.pipe2(os.O_CLOEXEC))
        with contextlib.suppress(OSError):  # the user has too many large pipes: a small one does it, too
            fcntl.fcntl(pipe.write, fcntl.F_SETPIPE_SZ, _CHUNK)
        return pipe

    def give_back(self, pipe: _Pipe, *, is_empty: bool) -> None:
        """Keep an empty pipe for the next one; close it if bytes of this connection are in it."""
        if is_empty and len(self._empty) < _MOST_EMPTY:
            self._empty.append(pipe)
        else:
            for fd in pipe:
                os.close(fd)


class _Direction:
    """Bytes from one socket to another one, through a pipe of ours."""

    def __init__(self, source: socket.socket, sink: socket.socket, pipes: _Pipes) -> None:
        self.source = source
        self.sink = sink
        self.waiting = 0  # bytes in the pipe
        self.has_ended = False  # and the sink was told so
        self._pipes = pipes
        self._pipe: _Pipe | None = None

    def move(self) -> bool:
        """Move one chunk, if that is possible at once; return whether it was. Raises OSError."""
        if self.has_ended:
            return False
        has_moved = False
        pipe = self._pipe = self._pipe or self._pipes.take()
        try:
            if not self.waiting:
                self.waiting = os.splice(self.source.fileno(), pipe.write, _CHUNK)
                has_moved = True
                if not self.waiting:
                    self.sink.shutdown(socket.SHUT_WR)
                    self.has_ended = True
            while self.waiting:
                self.waiting -= os.splice(pipe.read, self.sink.fileno(), self.waiting)
                has_moved = True
        except BlockingIOError:
            pass
        if not self.waiting:
            self.close()
        return has_moved

    def close(self) -> None:
        """Give the pipe back."""
        if self._pipe is not None:
            self._pipes.give_back(self._pipe, is_empty=not self.waiting)
            self._pipe = None


class _Connection:
    """A connection of the algorithm's with a target, through two sockets of ours."""

    def __init__(self, inner: socket.socket, outer: socket.socket, pipes: _Pipes) -> None:
        """inner: to the algorithm. outer: to the target."""
        self._inner = inner
        self._sockets = (inner, outer)
        self._request = _Direction(inner, outer, pipes)
        self._answer = _Direction(outer, inner, pipes)
        self._poll = select.poll()
        self._hung_up: set[int] = set()  # descriptors at which nothing more will happen

    def run(self) -> None:
        """Move bytes until both directions have ended; an error ends both, as it would without us.

        Raises OSError when this process may have no more descriptors.
        """
        for one in self._sockets:
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._move()
        except OSError as error:
            _reset(*self._sockets)
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
        finally:
            self._request.close()
            self._answer.close()

    def _move(self) -> None:
        request, answer = self._request, self._answer
        is_probed = False
        while not (request.has_ended and answer.has_ended):
            # Both are moved in turn: neither waits until the other has nothing to move.
            if request.move() | answer.move():
                continue
            if request.has_ended and not is_probed:
                # The algorithm waits for the rest of the answer, or has closed its socket, which looks the
                # same from here until its kernel refuses a probe.
                _probe(self._inner, *_ENDED_PROBES)
                is_probed = True
            self._wait()

    def _wait(self) -> None:
        """Return when there is something to move. Raises OSError when a socket has failed."""
        wanted = {one.fileno(): 0 for one in self._sockets}
        for direction in (self._request, self._answer):
            if direction.waiting:
                wanted[direction.sink.fileno()] |= select.POLLOUT
            elif not direction.has_ended:
                wanted[direction.source.fileno()] |= select.POLLIN
        for fd, events in wanted.items():
            if events or fd not in self._hung_up:
                self._poll.register(fd, events)
        for fd, found in self._poll.poll():
            if found & _BROKEN:
                raise OSError
            if found & select.POLLHUP and not found & wanted[fd]:
                # It is told at once each time, while the bytes before it wait for room at the other socket.
                self._hung_up.add(fd)
                self._poll.unregister(fd)


def _probe(one: socket.socket, idle_s: int, interval_s: int, most: int) -> None:
    """Have the kernel ask the other side whether the connection still exists; if not, it fails here."""
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, most)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


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
