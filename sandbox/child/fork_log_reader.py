"""Receiving of log records from forked processes, in one thread of the child.

See fork_logging.py. Python 3.8 and newer.
"""

from __future__ import annotations

import _socket  # not `socket`, whose class gevent replaces: its would wait for other greenlets
import contextlib
import fcntl
import os
import signal
import sys
import threading
from _thread import RLock
from select import POLLIN

from .fork_log_pipes import HIGH
from .fork_log_records import LENGTH, unpacked
from .own_threads import new_thread, poll

TYPE_CHECKING = False  # not typing's: its import would take 2 ms of a user's fork
if TYPE_CHECKING:
    from typing import Any, Dict

#: Capacity of a pipe: what was written before drain() is within this many bytes.
_PIPE = 65536


class RecordReader:
    """Passes the records that arrive in the pipes to the handlers."""

    def __init__(self, registration: int, handlers: Any) -> None:
        self._registration = registration
        self._handlers = handlers
        self._poll = poll()
        self._poll.register(registration, POLLIN)
        self._pipes: Dict[int, bytearray] = {}
        self._expected: Dict[int, threading.Event] = {}
        #: Held while a handler writes a record.
        self.writing = RLock()
        self._thread = new_thread(self._run, (), "hkrunner-records")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def expect(self, flush: int) -> threading.Event:
        """Return the event that is set once everything written before that flush is handled.

        forget() is to follow.
        """
        event = self._expected[flush] = threading.Event()
        return event

    def forget(self, flush: int) -> None:
        """Nothing waits for that flush any more."""
        self._expected.pop(flush, None)

    def close_pipes(self) -> None:
        """Close the pipes that a forked process has inherited: they belong to the child."""
        for fd in self._pipes:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._pipes.clear()

    def _run(self) -> None:
        """Read until the registration socket is closed, by the end of the child or by the user's code."""
        # Signals are for the user's threads, one of which may wait for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            registration = _socket.socket(fileno=self._registration)
        except OSError:
            return
        try:
            while True:
                for fd, _ in self._poll.poll():
                    if fd == self._registration:
                        self._open(registration)
                    elif fd in self._pipes:
                        self._read(fd)
        except OSError:
            pass
        finally:
            for event in list(self._expected.values()):
                event.set()
            registration.detach()

    def _open(self, registration: _socket.socket) -> None:
        data, ancillary, _, _ = registration.recvmsg(64, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(content) == 4:
                self._add(int.from_bytes(content, sys.byteorder))
        if data[:1].isdigit():
            self._flush(*data.split())
        elif not data:
            raise OSError("closed by the user's code")

    def _flush(self, number: bytes, end: bytes = b"") -> None:
        for fd in list(self._pipes):
            self._read_what_is_there(fd)
        if end:
            self.close_pipes()
            os.close(self._registration)
        event = self._expected.get(int(number))
        if event is not None:
            event.set()
        if end:
            raise OSError("the child exits")

    def _add(self, fd: int) -> None:
        try:
            high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
        finally:
            os.close(fd)
        os.set_blocking(high, False)
        self._pipes[high] = bytearray()
        self._poll.register(high, POLLIN)

    def _read_what_is_there(self, fd: int) -> None:
        """Read what was written up to now, and at most one pipe's capacity of what is written meanwhile."""
        left = _PIPE
        while left > 0 and fd in self._pipes:
            count = self._read(fd)
            if count == 0:
                return
            left -= count

    def _read(self, fd: int) -> int:
        """Read once, and handle whole records; return the number of bytes, 0 if there were none."""
        try:
            data = os.read(fd, _PIPE)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            # Its process has ended; a record that was cut is dropped.
            self._poll.unregister(fd)
            del self._pipes[fd]
            with contextlib.suppress(OSError):
                os.close(fd)
            return 0
        waiting = self._pipes[fd]
        waiting += data
        at = 0
        while len(waiting) - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(waiting, at)
            if len(waiting) - at - LENGTH.size < length:
                break
            at += LENGTH.size
            self._handle(bytes(waiting[at : at + length]))
            at += length
        del waiting[:at]
        return len(data)

    def _handle(self, frame: bytes) -> None:
        """Have the record's handler write it. No error of user code ends the thread."""
        try:
            number, record = unpacked(frame)
            handler = self._handlers.get(number)
            if handler is None:
                # The child has replaced its handlers since.
                import logging

                logging.getLogger(record.name).callHandlers(record)
                return
            with self.writing:
                handler.acquire()
                try:
                    handler.emit(record)
                finally:
                    handler.release()
        except Exception:  # noqa: BLE001 - a formatter or handler of the user's: logging prints, so do we
            with contextlib.suppress(Exception):  # as logging does where stderr is closed
                import traceback

                traceback.print_exc()
