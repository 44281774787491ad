"""Messages to a child, written as far as the kernel takes them, the rest when it takes more. Never blocks."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import sys
from collections import deque

from ..shared.channel import header, write_all
from ..shared.message_format import Memfd, ProcessMessage, encode
from .loop_protocol import LoopProtocol

#: With this many messages to be written, a child reads none: of further large ones no descriptor stays open.
WAITING_MAX = 32


class FrameSender:
    """The writing side of one socket."""

    def __init__(self, loop: LoopProtocol, sock: socket.socket) -> None:
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        #: Bytes, and the descriptor that goes with their first; or what is in the memfd that goes with them.
        self._queue: deque[tuple[memoryview, int | bytes | None]] = deque()
        self._is_ending = False
        self._is_waiting = False  #: for the kernel to take more

    def send(self, task: int, *messages: ProcessMessage) -> None:
        """Send messages with one write, each with its bytes in the stream."""
        if len(messages) == 1:  # nearly always
            self._put(encode(task, messages[0]))
        else:
            self._put(b"".join([encode(task, one) for one in messages]))

    def send_blob(self, task: int, kind: int, blob: Memfd) -> None:
        """Send a message whose bytes are in a memfd; the descriptor stays the caller's."""
        head = header(kind, task, blob.size, blob=True)
        if len(self._queue) < WAITING_MAX:
            self._put(head, os.dup(blob.fd))
        else:
            with mmap.mmap(blob.fd, blob.size, prot=mmap.PROT_READ) as content:
                self._put(head, content[:])

    def end(self) -> None:
        """Shut the stream down once everything is written."""
        self._is_ending = True
        if not self._queue:
            self._flush()

    def drop(self) -> None:
        """Forget what was not written."""
        for _, fd in self._queue:
            if isinstance(fd, int):
                os.close(fd)
        self._queue.clear()
        if self._socket.fileno() >= 0:
            self._loop.on_writable(self._fd, None)

    def _put(self, data: bytes, fd: int | bytes | None = None) -> None:
        """Write these bytes, and this descriptor with their first; it is closed once it is sent."""
        is_idle, sent = not self._queue, 0
        if is_idle and fd is None:
            try:
                sent = self._socket.send(data)
            except OSError:
                pass  # _flush() gets the same error, and handles it
            if sent == len(data):
                return  # nearly always
        self._queue.append((memoryview(data)[sent:], fd))
        if is_idle:
            self._flush()

    def _flush(self) -> None:
        while self._queue:
            data, fd = self._queue[0]
            try:
                if isinstance(fd, bytes):
                    fd = _memfd_with(fd)
                    self._queue[0] = data, fd
                if fd is None:
                    sent = self._socket.send(data)
                else:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
                    sent = self._socket.sendmsg([data], rights)
                    os.close(fd)
            except BlockingIOError:
                self._is_waiting = True
                self._loop.on_writable(self._fd, self._flush)
                return
            except OSError:
                self.drop()  # the child is ending; the warden will report why
                return
            if sent < len(data):
                self._queue[0] = (data[sent:], None)
            else:
                self._queue.popleft()
        if self._is_waiting:
            self._is_waiting = False
            self._loop.on_writable(self._fd, None)
        if self._is_ending:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)


def _memfd_with(content: bytes) -> int:
    fd = os.memfd_create("hkrunner-message", os.MFD_CLOEXEC)
    try:
        write_all(fd, content)
    except OSError:
        os.close(fd)
        raise
    return fd
