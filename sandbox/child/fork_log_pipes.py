"""The writing side of forked processes' log records: descriptors that stay ours, a pipe for each process.

See fork_logging.py. Python 3.8 and newer.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import socket
import sys
import threading

TYPE_CHECKING = False  # not typing's: its import would take 2 ms of a user's fork
if TYPE_CHECKING:
    from typing import Optional, Tuple

#: As in frame_socket.py: our descriptors are above this.
HIGH = min(100, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
#: A worker waits this long for the child to take a record, then goes its own way for good.
STALL_S = 5.0


class OwnedDescriptor:
    """A descriptor out of the user's way, and the means to see that it is still ours."""

    def __init__(self, fd: int) -> None:
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
        os.close(fd)
        self._identity = self._look()

    def _look(self) -> Tuple[int, int]:
        state = os.fstat(self.fd)
        return state.st_dev, state.st_ino

    def is_ours(self) -> bool:
        """The user's code may have closed everything, and opened a file under this number."""
        try:
            return self._look() == self._identity
        except OSError:
            return False

    def close(self) -> None:
        if self.is_ours():
            os.close(self.fd)


class RecordSender:
    """The writing end of one process's pipe, made when the process logs for the first time."""

    def __init__(self, door: OwnedDescriptor) -> None:
        self._door = door
        self._pipe: Optional[OwnedDescriptor] = None
        self._lost = False
        # A signal handler may log in the middle of a record of the same thread.
        self._lock = threading.RLock()
        self._busy = False

    def send(self, frame: bytes) -> bool:
        """Write the frame, whole; False: nobody takes it, and it is to leave by another way."""
        with self._lock:
            if self._busy or self._lost:
                return False
            self._busy = True
            try:
                if self._pipe is None:
                    self._pipe = self._introduce()
                if not self._pipe.is_ours():
                    raise OSError("closed by the user's code")
                self._write(self._pipe.fd, frame)
            except OSError:
                # What was written of the frame is dropped by the reader at the end of the pipe.
                self._lost = True
                self.close()
                return False
            finally:
                self._busy = False
        return True

    def _introduce(self) -> OwnedDescriptor:
        if not self._door.is_ours():
            raise OSError("closed by the user's code")
        reading, writing = os.pipe()
        try:
            pipe = OwnedDescriptor(writing)
            os.set_blocking(pipe.fd, False)
            with socket.socket(fileno=os.dup(self._door.fd)) as door:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, reading.to_bytes(4, sys.byteorder))]
                while True:
                    try:
                        door.sendmsg([b"pipe"], rights, socket.MSG_DONTWAIT)
                        return pipe
                    except BlockingIOError:
                        _wait_writable(door.fileno())
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


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(STALL_S * 1000):
        raise OSError("the child does not read")
