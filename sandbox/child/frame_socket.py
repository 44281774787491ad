"""The child's end of the task socket, and descriptors that the user's code does not meet.

Python 3.8 and newer.
"""

from __future__ import annotations

import _socket  # not `socket`, whose enums and selectors would cost each start 3 ms
import contextlib
import fcntl
import mmap
import os
import resource
import select
import sys
import threading
from typing import Callable, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple, Type, Union

from ..codec.codec import Buffer
from ..shared.channel import (
    EXIT_CHANNEL_LOST,
    INLINE_MAX,
    ChannelError,
    Frame,
    FrameReader,
    fds_of,
    header,
    read_buffer,
    seal,
    write_all,
)
from ..shared.message_format import ProcessMessage, Wire, body_of, decode
from ..shared.messages import TO_CHILD, ApiCall, Done, LoadFailed, Setup
from . import exception_fields, fork_logging

#: Our descriptors are above this, where no program expects any; with few allowed (--files), above half.
HIGH = min(100, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
#: For recvmsg(): no program that the user's code starts inherits a received descriptor.
CLOEXEC = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)


class FrameSocket:
    """The task socket: messages in for the main thread, messages out for every thread of this process."""

    def __init__(self, fd: int) -> None:
        self._socket = _socket.socket(fileno=fd)
        self._socket.setblocking(True)  # a default timeout may have been set, by a .pth file or a caller
        self._reader = FrameReader()
        self._scratch = read_buffer(INLINE_MAX)  # what is read, until it is decoded
        self._scratch_view = memoryview(self._scratch)
        self._ready: List[Frame] = []
        self._lock = threading.RLock()
        self._is_sending = False
        #: What signal handlers of the user's have sent in the middle of a frame: task, kind and body of each.
        self._interposed: List[Tuple[int, int, List[bytes]]] = []
        self._pid = os.getpid()
        self._blob: Optional[int] = None
        self.known: Mapping[int, Type[ProcessMessage]] = TO_CHILD  #: the messages that may come
        #: Called with the socket's descriptor before each wait for a message.
        self.before_waiting: Optional[Callable[[int], None]] = None

    def receive(self) -> Optional[Tuple[int, ProcessMessage]]:
        """Wait for the next message; return it with its task's number, None when no more will come."""
        while not self._ready:
            if self.before_waiting is not None:
                self.before_waiting(self._socket.fileno())
            try:
                count, ancillary, _, _ = self._socket.recvmsg_into([self._scratch], 256, CLOEXEC)
            except BlockingIOError:
                self._socket.setblocking(True)  # as in send_whole()
                continue
            except OSError:
                _exit_without_channel()
            fds = fds_of(ancillary) if ancillary else ()
            if not count and not fds:
                return None
            self._ready = self._reader.feed(self._scratch_view[:count], fds)
        frame = self._ready.pop(0)
        return frame.task, decode(frame, self.known)

    def stays_quiet(self, seconds: float) -> bool:
        """Whether neither a message nor the end of the stream arrives within this time."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not self._ready and not poll.poll(seconds * 1000)

    def send(self, task: int, message: ProcessMessage) -> None:
        """Send a message, whole. Waits while the parent does not read."""
        self._send(task, message.kind, [_short_body(message)], reuse=False)

    def send_wire(
        self, task: int, message: Type[Union[Done, ApiCall]], wire: Sequence[Buffer], *, reuse: bool
    ) -> None:
        """Send a message whose only field is bytes for the worker, given in one or more pieces.

        `reuse`: a large body may use the one memfd that is kept from task to task; the parent has finished
        with the last one by the time the next task begins.
        """
        self._send(task, message.kind, wire, reuse=reuse)

    def renew_lock(self) -> None:
        """Replace the lock; for a forked process, in which no thread is left to release it."""
        self._lock = threading.RLock()

    def _send(self, task: int, kind: int, body: Sequence[Buffer], *, reuse: bool) -> None:
        if os.getpid() != self._pid:
            # A process forked by the user's code that came back here instead of ending.
            exit_fork()
        with self._lock:
            if self._is_sending:  # this very thread: a signal handler has interrupted it
                self._interposed.append((task, kind, list(map(bytes, body))))
                return
            self._is_sending = True
            try:
                size = sum(map(len, body))
                if size <= INLINE_MAX:
                    send_whole(self._socket, b"".join((header(kind, task, size), *body)))
                else:
                    self._send_blob(task, kind, size, body, reuse)
            except OSError:
                _exit_without_channel()
            finally:
                self._is_sending = False
            while self._interposed:
                self._send(*self._interposed.pop(0), reuse=False)

    def _send_blob(self, task: int, kind: int, size: int, body: Sequence[Buffer], reuse: bool) -> None:
        fd = self._filled(body, reuse)
        try:
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
            self._socket.setblocking(True)  # as in send_whole()
            self._socket.sendmsg([header(kind, task, size, blob=True)], rights)
        finally:
            if not reuse:
                os.close(fd)

    def _filled(self, body: Sequence[Buffer], reuse: bool) -> int:
        """Return a memfd with this content. A reused one has its pages already: 4 times faster to fill."""
        fd = self._blob if reuse else None
        if fd is None:
            fd = _new_blob()
            if reuse:
                self._blob = fd
        at = 0
        for one in body:
            write_all(fd, one, at)
            at += len(one)
        return fd


def receive_setup(channel: FrameSocket) -> Optional[Setup]:
    """Return the first message of the parent, None when it is gone. A parent of another version is refused,
    and this process ends."""
    try:
        received = channel.receive()
    except ChannelError as error:
        channel.send(0, LoadFailed("RUNNER_ERROR", f"RUNNER_ERROR: {error}"))
        os._exit(0)
    if received is None:
        return None
    setup = received[1]
    assert isinstance(setup, Setup), "the first message says what to load"
    return setup


def _short_body(message: ProcessMessage) -> bytes:
    """Return the body of the message, its texts cut if it is too long for the stream."""
    body = body_of(message)
    if len(body) <= INLINE_MAX:
        return body
    # JSON may write a character in 6 or 12 bytes: the text itself was no longer than its own limit.
    fields = message.as_dict()
    most = INLINE_MAX // 12 // max(1, len(fields))
    cut: Dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, str):
            cut[name] = exception_fields.cut(value, most)
        elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            cut[name] = [exception_fields.cut(one, most // len(value)) for one in value]
    return body_of(message.replace(**cut))


def send_whole(sock: _socket.socket, data: bytes) -> None:
    """Send all of it. Raises OSError.

    The user's code may have set O_NONBLOCK on every descriptor that it found. sendall() would not say then
    how much has left.
    """
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            sock.setblocking(True)


def send_in_place(sock: _socket.socket, data: Buffer) -> None:
    """Send all of it as send_whole() does, without a copy of what is left when a part has been sent."""
    at = 0
    with memoryview(data) as whole, whole.cast("B") as view:  # an error keeps no view of the user's bytes
        while at < len(view):
            try:
                at += sock.send(view[at:])
            except BlockingIOError:
                sock.setblocking(True)


# ---- descriptors


def move_high(fd: int) -> int:
    """Move a descriptor above HIGH, closed on exec; return its new number."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
    finally:
        os.close(fd)


def _new_blob() -> int:
    fd = move_high(os.memfd_create("hkrunner", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    seal(fd)
    return fd


def content_of(wire: Wire) -> Union[bytes, memoryview]:
    """Return the bytes of a message of HKube's, and close the memfd that they may be in.

    Raises MemoryError and ValueError.
    """
    if isinstance(wire, bytes):
        return wire
    try:
        return memoryview(mmap.mmap(wire.fd, wire.size, mmap.MAP_SHARED, mmap.PROT_READ))[: wire.size]
    except OSError as error:  # `ulimit -v`, most likely
        raise MemoryError(f"no room for a message of {wire.size:,} bytes: {error.strerror}") from None
    finally:
        os.close(wire.fd)


# ---- the end of this process


def exit_fork(status: int = 0) -> NoReturn:
    """End a process that the user's code has forked: hkrunner does not continue in it."""
    with contextlib.suppress(Exception):  # whatever the user has made of logging: it has to end
        flush_output()
    os._exit(status)


def _exit_without_channel() -> NoReturn:
    """End this process: the parent is gone, or the user's code has closed hkrunner's sockets."""
    with contextlib.suppress(Exception):  # as above
        flush_output()
    os._exit(EXIT_CHANNEL_LOST)


def flush_output() -> None:
    """Write out what was printed and logged so far, records of forked processes included."""
    fork_logging.drain()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001 - the user's code may have closed them, or replaced them with anything
            pass
