"""Connects forked processes, which send log records, with the child, which writes them.

Imported by the first fork that finds handlers. See fork_logging.py. Python 3.8 and newer.
"""

from __future__ import annotations

import _socket  # as in frame_socket.py
import builtins
import contextlib
import importlib.util
import mmap
import os
import sys
import threading

from .fork_log_pipes import OwnedDescriptor, RecordSender
from .fork_log_reader import RecordReader
from .fork_log_records import packed

TYPE_CHECKING = False  # not typing's: its import would take 2 ms of a user's fork
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

#: The longest time that a fork waits for a handler that is writing a record.
FORK_S = 1.0


def loggers_with_handlers() -> List[Any]:
    """Return all loggers that have handlers."""
    import logging

    known = list(logging.Logger.manager.loggerDict.values())
    return [one for one in [logging.getLogger(), *known] if getattr(one, "handlers", None)]


class Hub:
    """The registration socket, with the reader in the child or the sender in a forked process."""

    def __init__(self) -> None:
        from weakref import WeakValueDictionary

        self._forwarder = _forwarder_class()
        self._handlers: Any = WeakValueDictionary()
        self._numbers: Dict[int, int] = {}
        self._count = 0
        self._is_fork = False
        inner, outer = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._inner = OwnedDescriptor(inner.detach())
        self._outer = OwnedDescriptor(outer.detach())
        os.set_blocking(self._outer.fd, False)
        self._reader = RecordReader(self._inner.fd, self._handlers)
        self._is_ending = mmap.mmap(-1, 1)  # shared with all forked processes
        self._flushes = 0
        self._paused: Dict[int, bool] = {}
        self._sender: Optional[RecordSender] = None
        self._reader.start()

    def know(self, loggers: List[Any]) -> None:
        """Number the current handlers: a forked process names a handler by its number."""
        for handler in {id(one): one for logger in loggers for one in logger.handlers}.values():
            number = self._numbers.get(id(handler))
            if number is None or self._handlers.get(number) is not handler:
                self._count += 1
                self._numbers[id(handler)] = self._count
                self._handlers[self._count] = handler

    def pause(self) -> None:
        """Keep the reader from using handlers until resume() in the same thread."""
        self._paused[threading.get_ident()] = self._reader.writing.acquire(timeout=FORK_S)

    def resume(self) -> None:
        """Let the reader use the handlers again."""
        if self._paused.pop(threading.get_ident(), False):
            self._reader.writing.release()

    def drain(self, most_s: float, *, end: bool = False) -> None:
        """See fork_logging.drain(). `end`: no record is received after that."""
        self._flushes = number = self._flushes + 1
        seen = self._reader.expect(number)
        if end:
            self._is_ending[0] = 1  # before the reader is told so: see RecordSender.send()
        if self._reader.is_alive() and self._outer.is_ours():
            with contextlib.suppress(OSError):
                os.write(self._outer.fd, b"%d" % number + (b" end" if end else b""))
                seen.wait(most_s)
        self._reader.forget(number)

    # ---- in a forked process

    def enter_fork(self) -> None:
        """The records of this process are sent to the child. Logging's locks may be held by anybody."""
        # A process that was forked by a forked one has inherited that one's pipe, and must not write to it.
        if self._sender is not None:
            self._sender.close()
        self._sender = RecordSender(self._outer, self._is_ending)
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
        """Send a record to the handler with that number; return False if that fails."""
        sender = self._sender
        return sender is not None and sender.send(packed(number, record))


class _NotImported:
    """Stands in for a module; whatever is imported from it is None."""

    def __getattr__(self, name: str) -> None:
        return None


def _import_if_loaded(name: str, *more: Any) -> Any:
    return __import__(name, *more) if name in sys.modules else _NotImported()


def _package() -> Any:
    """Return the package, which gets only the modules that are loaded.

    Its queue, which is not used, wants multiprocessing. That imports a dozen modules, and the user may have
    files of their names, such as queue.py.
    """
    name = "multiprocessing_logging"
    if name in sys.modules:
        return importlib.import_module(name)
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    package = importlib.util.module_from_spec(spec)
    vars(package)["__builtins__"] = {**vars(builtins), "__import__": _import_if_loaded}
    spec.loader.exec_module(package)
    return package


def _forwarder_class() -> Any:
    """Return the class of the handlers that replace the child's in a forked process."""
    import logging

    class RecordForwarder(_package().MultiProcessingHandler):  # type: ignore[misc]
        """The package's handler without its queue: it formats what cannot be pickled, and calls _send()."""

        def __init__(self, wrapped: Any, hub: Hub, number: int) -> None:
            # Not super().__init__(), which would make the queue and a thread that reads it.
            logging.Handler.__init__(self, wrapped.level)
            self.sub_handler = wrapped
            self.filters = wrapped.filters
            self.formatter = wrapped.formatter
            self._hub = hub
            self._number = number
            self._is_closed = True

        def emit(self, record: Any) -> None:
            copy = object.__new__(type(record))  # it is changed below
            copy.__dict__.update(record.__dict__)
            super().emit(copy)

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

    return RecordForwarder
