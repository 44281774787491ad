"""The door through which forked processes hand in their log records, and what is behind it on both sides.

Imported by the first fork that finds handlers. See fork_logging.py. Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading

from .fork_log_pipes import OwnedDescriptor, RecordSender
from .fork_log_reader import RecordReader
from .fork_log_records import packed

TYPE_CHECKING = False  # not typing's: its import would take 2 ms of a user's fork
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

#: A fork waits this long for a record that is just being written.
FORK_S = 1.0


def loggers_with_handlers() -> List[Any]:
    """All loggers that have handlers of their own."""
    import logging

    known = list(logging.Logger.manager.loggerDict.values())
    return [one for one in [logging.getLogger(), *known] if getattr(one, "handlers", None)]


class Hub:
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
        self._inner = OwnedDescriptor(inner.detach())
        self._outer = OwnedDescriptor(outer.detach())
        os.set_blocking(self._outer.fd, False)
        self._reader = RecordReader(self._inner.fd, self._handlers)
        self._knocks = 0
        self._paused: Dict[int, bool] = {}
        self._sender: Optional[RecordSender] = None
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
        self._sender = RecordSender(self._outer)
        if self._is_fork:
            return
        self._is_fork = True
        self._inner.close()
        self._reader.close_pipes()
        stand_ins: Dict[int, Any] = {}
        for logger in loggers_with_handlers():
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
        return sender is not None and sender.send(packed(number, record))


def _forwarder_class() -> Any:
    """Return the handler that stands in for one of the child's in a process that the child has forked."""
    import copy
    import logging

    # It loads multiprocessing, as a pool has done already.
    from multiprocessing_logging import MultiProcessingHandler

    class Forwarder(MultiProcessingHandler):  # type: ignore[misc]
        """Theirs up to the queue: it formats what cannot travel, and hands the record to _send()."""

        def __init__(self, wrapped: Any, hub: Hub, number: int) -> None:
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
