"""Messages between two processes of ours, in datagrams and with their descriptors. Never blocks."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from ...sandbox.shared.channel import ChannelError, fds_of, read_buffer
from ...sandbox.shared.datagrams import DATAGRAM_MAX, datagram_of, message_of
from ...sandbox.shared.message_format import ProcessMessage
from .loop import Loop

#: Room for the descriptors of a datagram, which has at most four.
_ANCILLARY_BYTES = socket.CMSG_LEN(4 * 4)


class MessageSocket:
    """One end of the pair, in the loop."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        known: Mapping[int, type[ProcessMessage]],
        on_message: Callable[[ProcessMessage, list[int]], None],
        on_end: Callable[[ChannelError | None], None],
    ) -> None:
        """`known`: the messages that may come, by their kind. `on_message`: gets a message and its
        descriptors, which are its own to close. `on_end`: the other side has closed the socket or is gone, or
        has sent something else, which the error describes; called once, when the socket is closed.

        Raises MemoryError."""
        self._loop = loop
        self._socket = sock
        self._known = known
        self._on_message = on_message
        self._on_end = on_end
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        # recv() would map memory of this size for each message, and give it back.
        self._scratch = read_buffer(DATAGRAM_MAX)
        self._is_closed = False
        sock.setblocking(False)
        loop.on_readable(sock, self._read)

    def send(self, message: ProcessMessage, fds: Iterable[int] = ()) -> None:
        """Send the message with copies of these descriptors; it waits here while the other side is slow."""
        if self._is_closed:
            return
        is_idle = not self._queue
        self._queue.append((datagram_of(message), [os.dup(fd) for fd in fds]))
        if is_idle:
            self._flush()

    def close(self) -> None:
        """Close the socket, and forget what was not sent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.on_readable(self._socket, None)
        self._loop.on_writable(self._socket, None)
        for _, fds in self._queue:
            _close_all(fds)
        self._queue.clear()
        self._socket.close()

    def _flush(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._socket.sendmsg([data], rights)
            except BlockingIOError:
                self._loop.on_writable(self._socket, self._flush)
                return
            except OSError:
                pass  # the other side is gone, which the end of the stream tells
            self._queue.popleft()
            _close_all(fds)
        self._loop.on_writable(self._socket, None)

    def _read(self) -> None:
        try:
            data, fds, flags = self._receive()
        except BlockingIOError:
            return
        except OSError:
            data, fds, flags = b"", [], 0
        error = None
        if data:
            assert not flags & socket.MSG_TRUNC, "a datagram is never longer than DATAGRAM_MAX"
            try:
                message = message_of(data, self._known)
            except ChannelError as problem:
                error = problem
            else:
                self._on_message(message, fds)
                return
        _close_all(fds)
        self.close()
        self._on_end(error)

    def _receive(self) -> tuple[bytes, list[int], int]:
        for _ in range(2):
            try:
                count, ancillary, flags, _ = self._socket.recvmsg_into(
                    [self._scratch], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
                return self._scratch[:count], fds_of(ancillary), flags
            except ConnectionResetError:
                # Told once, if the other side has not read all of ours; its last messages can still be read.
                continue
        return b"", [], 0


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
