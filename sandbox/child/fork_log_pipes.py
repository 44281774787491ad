"""Sending of log records by forked processes: checked descriptors, and one pipe for each process.

See fork_logging.py. Python 3.8 and newer.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import resource
import select
import sys
import threading

TYPE_CHECKING = False  # not typing's: its import would take 2 ms of a user's fork
if TYPE_CHECKING:
    import mmap
    from typing import Optional, Tuple

#: Lowest number of our descriptors, as in frame_socket.py.
HIGH = min(100, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
#: The longest time that a worker waits for the child to read a record; then it never sends one again.
STALL_S = 5.0
#: As in termios, which nothing else of ours loads: from asm-generic/ioctls.h of Linux, or that of powerpc.
_FIONREAD = 0x4004667F if os.uname().machine.startswith("ppc") else 0x541B


class OwnedDescriptor:
    """A descriptor with a high number, which knows whether the user's code has replaced it."""

    def __init__(self, fd: int) -> None:
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
        os.close(fd)
        self._identity = self._look()

    def _look(self) -> Tuple[int, int]:
        state = os.fstat(self.fd)
        return state.st_dev, state.st_ino

    def is_ours(self) -> bool:
        """Whether it is still the same file: the user's code may have closed it and opened another."""
        try:
            return self._look() == self._identity
        except OSError:
            return False

    def close(self) -> None:
        """Close the descriptor, unless the user's code has replaced it."""
        if self.is_ours():
            os.close(self.fd)


class RecordSender:
    """Sends the records of one process over a pipe that is made with the first of them."""

    def __init__(self, registration: OwnedDescriptor, is_ending: mmap.mmap) -> None:
        """`is_ending`: its byte is 1 from the time when the reader is about to end."""
        self._registration = registration
        self._is_ending = is_ending
        self._pipe: Optional[OwnedDescriptor] = None
        self._lost = False
        # Reentrant: a signal handler may log while the same thread sends a record.
        self._lock = threading.RLock()
        self._busy = False

    def send(self, frame: bytes) -> bool:
        """Write the whole frame; return False if the child does not receive it.

        A reader that ends reads what was in the pipe when it was told to. If it had not been told when a
        frame was written, it reads the frame; else what is left in the pipe once it is closed says whether
        it did.
        """
        with self._lock:
            if self._busy or self._lost:
                return False
            self._busy = True
            try:
                if self._pipe is None:
                    self._pipe = self._register()
                if not self._pipe.is_ours():
                    raise OSError("closed by the user's code")
                self._write(self._pipe.fd, frame)
                if self._is_ending[0] and _is_left(self._pipe.fd):
                    raise OSError("the reader has ended")
            except OSError:
                # The reader drops the part of the frame that was written, at the end of the pipe.
                self._lost = True
                self.close()
                return False
            finally:
                self._busy = False
        return True

    def _register(self) -> OwnedDescriptor:
        if not self._registration.is_ours():
            raise OSError("closed by the user's code")
        reading, writing = os.pipe()
        try:
            pipe = OwnedDescriptor(writing)
            os.set_blocking(pipe.fd, False)
            registration = _socket.socket(fileno=os.dup(self._registration.fd))
            try:
                rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, reading.to_bytes(4, sys.byteorder))]
                while True:
                    try:
                        registration.sendmsg([b"pipe"], rights, _socket.MSG_DONTWAIT)
                        return pipe
                    except BlockingIOError:
                        _wait_writable(registration.fileno())
            finally:
                registration.close()
        finally:
            os.close(reading)

    def _write(self, fd: int, frame: bytes) -> None:
        view = memoryview(frame)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                _wait_writable(fd)

    def close(self) -> None:
        """Forget the pipe."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()


def _is_left(fd: int) -> bool:
    """Whether a part of what was written to a pipe was not read when its reader closed it."""
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR, which is always reported: the reading end is closed
    poll.poll(STALL_S * 1000)
    unread = fcntl.ioctl(fd, _FIONREAD, bytes(4))
    return int.from_bytes(unread, sys.byteorder) > 0


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(STALL_S * 1000):
        raise OSError("the child does not read")
