"""`logging` records of the processes that an algorithm forks leave through the child's own handlers, whole.

Theory of operation
-------------------
A forked worker has copies of the child's handlers. Two of them writing at once tear each other's lines, and
a copy of a rotating file rotates alone. So a worker sends its records to the child, whose handlers see them:
what the package multiprocessing-logging is for. Its handler is used here, its queue is not: that has one
lock for all writers, and a worker killed while it holds the lock silences everybody for good.

    door    one SOCK_SEQPACKET pair for the whole tree. A forked process that logs for the first time makes
            a pipe and sends the reading end through the door; the message is there whole or not at all.
    pipe    one per process: nobody else writes to it. Frames of a length and a pickle. What a process that
            is killed leaves half written is dropped at the end of its pipe, and concerns nobody else.
    reader  one thread of the child: takes pipes from the door and records from pipes, and gives them to
            the very handlers that the child had when it forked.

The child's own records go straight to its handlers, which stay in their places: only the copies in forked
processes are stood in for. Processes forked by those use the same door. Where a record cannot be sent (the
child is gone, does not take it for STALL_S, the user's code has closed our descriptors) it leaves through
the copy of the handler: in one write, which the kernel keeps whole up to 4096 bytes. So it is also with the
start methods spawn and forkserver, whose processes have no handlers but those they set up themselves.

Everything is set up by the first fork that finds handlers; before that it costs two entries in a list. The
reader is kept from the handlers while the child forks, so that no copy of a stream is in the middle of a
write; a forked process takes no lock that a thread of the child could hold. Both sides are the user's own
code, so pickle opens nothing to anybody.

Runs on Python 3.8 and newer; imports the standard library only, the package where it is installed.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
from typing import Any, Dict, List, Optional, Tuple

#: As in child.py: descriptors of ours go above this.
HIGH = min(100, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
#: A worker waits this long for the child to take a record, then goes its own way for good.
STALL_S = 5.0
#: A fork waits this long for a record that is just being written.
FORK_S = 1.0
#: The end of a task waits this long, at most, for records that are under way.
DRAIN_S = 2.0
#: What a pipe holds: whatever was written before drain() is within this much of it.
_PIPE = 65536
_LENGTH = struct.Struct("=I")
#: Values of a record that are the same in every process; anything else is pickled apart.
_PLAIN = (str, int, float, bool, bytes, type(None))

_hub: Optional[_Hub] = None
_home = 0  #: the pid of the child itself
_cannot = False  #: the package is not installed, or there were no descriptors left


def watch() -> None:
    """Have the records of processes forked from now on come to this one. Called once, by the child."""
    global _home
    _home = os.getpid()
    # Registered first, called last: what multiprocessing's own end of the program still brings.
    atexit.register(_end)
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_fork)


def drain(most_s: float = DRAIN_S) -> None:
    """Records written before this call have left through their handlers, or `most_s` have gone."""
    if _hub is not None and os.getpid() == _home:
        _hub.drain(most_s)


def _end() -> None:
    """The child ends: what processes that live longer log from now on leaves through their own copies."""
    if _hub is not None and os.getpid() == _home:
        _hub.drain(DRAIN_S, end=True)


def _before_fork() -> None:
    # An exception here would be printed in the middle of the user's output.
    with contextlib.suppress(Exception):
        _set_up()


def _set_up() -> None:
    global _hub, _cannot
    if os.getpid() != _home or "logging" not in sys.modules or _cannot:
        return
    loggers = _loggers()
    if _hub is None:
        if not loggers:
            return
        _cannot = True
        _hub = _Hub()
        _cannot = False
        # Before logging's own end, which closes the handlers.
        atexit.register(drain)
    _hub.know(loggers)
    _hub.pause()


def _after_fork() -> None:
    if _hub is not None:
        _hub.resume()


def _in_fork() -> None:
    with contextlib.suppress(Exception):
        if _hub is not None:
            _hub.enter_fork()


def _loggers() -> List[Any]:
    """All loggers that have handlers of their own."""
    import logging

    known = list(logging.Logger.manager.loggerDict.values())
    return [one for one in [logging.getLogger(), *known] if getattr(one, "handlers", None)]


class _Hub:
    """The door, and what is behind it: a thread in the child, a pipe's writer in each forked process."""

    def __init__(self) -> None:
        # A process may fork while another thread imports: what forks need is loaded here.
        import pickle  # noqa: F401
        from weakref import WeakValueDictionary

        self._forwarder = _forwarder_class()
        self._handlers: Any = WeakValueDictionary()
        self._numbers: Dict[int, int] = {}
        self._count = 0
        self._is_fork = False
        inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._inner = _Descriptor(inner.detach())
        self._outer = _Descriptor(outer.detach())
        os.set_blocking(self._outer.fd, False)
        self._reader = _Reader(self._inner.fd, self._handlers)
        self._knocks = 0
        self._paused: Dict[int, bool] = {}
        self._sender: Optional[_Sender] = None
        self._reader.start()

    def know(self, loggers: List[Any]) -> None:
        """Number the handlers there are now, for the processes that are about to know them too."""
        for handler in {id(one): one for logger in loggers for one in logger.handlers}.values():
            number = self._numbers.get(id(handler))
            if number is None or self._handlers.get(number) is not handler:
                self._count += 1
                self._numbers[id(handler)] = self._count
                self._handlers[self._count] = handler

    def pause(self) -> None:
        """Keep the reader from the handlers, until resume() in the same thread."""
        self._paused[threading.get_ident()] = self._reader.writing.acquire(timeout=FORK_S)

    def resume(self) -> None:
        """The fork is done."""
        if self._paused.pop(threading.get_ident(), False):
            self._reader.writing.release()

    def drain(self, most_s: float, *, end: bool = False) -> None:
        """See the module's drain(); `end`: nothing is taken after that."""
        self._knocks += 1
        seen = self._reader.expect(self._knocks)
        if self._reader.is_alive() and self._outer.is_ours():
            with contextlib.suppress(OSError):
                os.write(self._outer.fd, b"%d" % self._knocks + (b" end" if end else b""))
                seen.wait(most_s)

    # ---- in a forked process

    def enter_fork(self) -> None:
        """Have this process's records go through the door. Called with logging's locks in any state."""
        # A process forked by a forked one has inherited the other's pipe, and must not write to it.
        if self._sender is not None:
            self._sender.close()
        self._sender = _Sender(self._outer)
        if self._is_fork:
            return
        self._is_fork = True
        self._inner.close()
        self._reader.close_pipes()
        stand_ins: Dict[int, Any] = {}
        for logger in _loggers():
            logger.handlers[:] = [self._stand_in(one, stand_ins) for one in logger.handlers]

    def _stand_in(self, handler: Any, made: Dict[int, Any]) -> Any:
        number = self._numbers.get(id(handler))
        if number is None or self._handlers.get(number) is not handler:
            return handler
        if number not in made:
            made[number] = self._forwarder(handler, self, number)
        return made[number]

    def send(self, number: int, record: Any) -> bool:
        """Send a record of this process to the handler of that number; False when that cannot be."""
        sender = self._sender
        return sender is not None and sender.send(_packed(number, record))


class _Descriptor:
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


class _Sender:
    """The writing end of one process's pipe, made when the process logs for the first time."""

    def __init__(self, door: _Descriptor) -> None:
        self._door = door
        self._pipe: Optional[_Descriptor] = None
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

    def _introduce(self) -> _Descriptor:
        if not self._door.is_ours():
            raise OSError("closed by the user's code")
        reading, writing = os.pipe()
        try:
            pipe = _Descriptor(writing)
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


class _Reader:
    """Behind the door: gives what comes through the pipes to the handlers."""

    def __init__(self, door: int, handlers: Any) -> None:
        self._door = door
        self._handlers = handlers
        self._poll = select.poll()
        self._poll.register(door, select.POLLIN)
        self._pipes: Dict[int, bytearray] = {}
        self._expected: Dict[int, threading.Event] = {}
        #: Held while a record is with its handler.
        self.writing = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="hkrunner-records", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def is_alive(self) -> bool:
        """It listens."""
        return self._thread.is_alive()

    def expect(self, knock: int) -> threading.Event:
        """Return what is set once everything written before that knock is done with."""
        event = self._expected[knock] = threading.Event()
        return event

    def close_pipes(self) -> None:
        """In a forked process: these are the child's."""
        for fd in self._pipes:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._pipes.clear()

    def _run(self) -> None:
        """Until the door is closed, which only the user's code can do."""
        # They are for the user's threads, one of which may wait for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            door = socket.socket(fileno=self._door)
        except OSError:
            return
        try:
            while True:
                for fd, _ in self._poll.poll():
                    if fd == self._door:
                        self._open(door)
                    elif fd in self._pipes:
                        self._read(fd)
        except OSError:
            pass
        finally:
            for event in list(self._expected.values()):
                event.set()
            door.detach()

    def _open(self, door: socket.socket) -> None:
        data, ancillary, _, _ = door.recvmsg(64, socket.CMSG_SPACE(4), getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(content) == 4:
                self._add(int.from_bytes(content, sys.byteorder))
        if data[:1].isdigit():
            self._take_knock(*data.split())
        elif not data:
            raise OSError("closed by the user's code")

    def _take_knock(self, number: bytes, end: bytes = b"") -> None:
        for fd in list(self._pipes):
            self._read_what_is_there(fd)
        if end:
            self.close_pipes()
            os.close(self._door)
        event = self._expected.pop(int(number), None)
        if event is not None:
            event.set()
        if end:
            raise OSError("this is the end")

    def _add(self, fd: int) -> None:
        try:
            high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
        finally:
            os.close(fd)
        os.set_blocking(high, False)
        self._pipes[high] = bytearray()
        self._poll.register(high, select.POLLIN)

    def _read_what_is_there(self, fd: int) -> None:
        """All that was written up to now, and not for ever what is written meanwhile."""
        left = _PIPE
        while left > 0 and fd in self._pipes:
            count = self._read(fd)
            if count == 0:
                return
            left -= count

    def _read(self, fd: int) -> int:
        """Read once, and give whole records on. 0: nothing is there, or the pipe has ended."""
        try:
            data = os.read(fd, _PIPE)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            # Its process has gone; what is half written is nobody's.
            self._poll.unregister(fd)
            del self._pipes[fd]
            with contextlib.suppress(OSError):
                os.close(fd)
            return 0
        waiting = self._pipes[fd]
        waiting += data
        at = 0
        while len(waiting) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(waiting, at)
            if len(waiting) - at - _LENGTH.size < length:
                break
            at += _LENGTH.size
            self._handle(bytes(waiting[at : at + length]))
            at += length
        del waiting[:at]
        return len(data)

    def _handle(self, frame: bytes) -> None:
        """Give one record to its handler, as its own process would have. Nothing of it may end the thread."""
        try:
            number, record = _unpacked(frame)
            handler = self._handlers.get(number)
            if handler is None:
                # The child has set up others since.
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
            with contextlib.suppress(Exception):
                import traceback

                traceback.print_exc()


def _packed(number: int, record: Any) -> bytes:
    """Return the frame. What one process may be unable to read of another's is pickled apart."""
    import pickle

    plain: Dict[str, Any] = {}
    others: Dict[str, bytes] = {}
    for name, value in record.__dict__.items():
        if type(value) in _PLAIN or (name == "args" and not value):
            plain[name] = value
        else:
            try:
                others[name] = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
            except Exception:  # noqa: BLE001 - whatever the user's objects raise
                plain[name] = _shown(value)
    body = pickle.dumps((number, plain, others), pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def _shown(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever the user's objects raise
        return f"<{type(value).__name__}>"


def _unpacked(frame: bytes) -> Tuple[int, Any]:
    import logging
    import pickle

    number, plain, others = pickle.loads(frame)
    record = logging.LogRecord("", 0, "", 0, "", None, None)
    record.__dict__.update(plain)
    for name, value in others.items():
        try:
            setattr(record, name, pickle.loads(value))
        except Exception:  # noqa: BLE001 - a class that only the other process knows
            setattr(record, name, "(of a class that is not known here)")
    return number, record


def _forwarder_class() -> Any:
    """Return the handler that stands in for one of the child's in a process that the child has forked."""
    import copy
    import logging

    # It loads multiprocessing, as a pool has done already.
    from multiprocessing_logging import MultiProcessingHandler

    class Forwarder(MultiProcessingHandler):  # type: ignore[misc]
        """Theirs up to the queue: it formats what cannot travel, and hands the record to _send()."""

        def __init__(self, wrapped: Any, hub: _Hub, number: int) -> None:
            # Not theirs: it would make the queue, and a thread that reads it.
            logging.Handler.__init__(self, wrapped.level)
            self.sub_handler = wrapped
            self.filters = wrapped.filters
            self.formatter = wrapped.formatter
            self._hub = hub
            self._number = number
            self._is_closed = True

        def emit(self, record: Any) -> None:
            super().emit(copy.copy(record))  # it is changed below, and others may have it too

        def _format_record(self, record: Any) -> Any:
            if record.args:
                record.msg, record.args = record.getMessage(), None
            return super()._format_record(record)

        def _send(self, record: Any) -> None:
            if not self._hub.send(self._number, record):
                self.sub_handler.handle(record)

        def flush(self) -> None:
            self.sub_handler.flush()

        def close(self) -> None:
            logging.Handler.close(self)

    return Forwarder
