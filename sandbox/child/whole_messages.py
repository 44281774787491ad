"""A message of multiprocessing's that finds no memory is read to its end all the same.

Its rest would be read as the beginning of the next one: the server of a Manager then answered with an error
for every few bytes of it, until both ends waited for ever for the other one to read. The message is lost, and
the reader gets the MemoryError.

Python 3.8 and newer.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any, Callable, Optional

#: multiprocessing's connections, also those of the copy that uses dill.
_MODULES = ("multiprocessing.connection", "multiprocess.connection")
_dropped = bytearray(1 << 16)  #: what is dropped is read into this: there is no memory
#: A message begins with its size in 4 bytes, or with these and its size in 8.
_SHORT, _LONG, _FOLLOWS = 4, 12, b"\xff\xff\xff\xff"
_reading = threading.local()  #: `message`: the one that the thread is reading


def keep_messages_whole() -> None:
    """Have it so in each process that is forked from now on, and in this one from then on."""
    os.register_at_fork(before=_change_connections)


def keep_messages_whole_in_spawned() -> None:
    """Have it so in this process, once it has imported more than the connections."""
    sys.meta_path.insert(0, _Imports)


class _Imports:
    """A finder of modules that finds none."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Change the connections, if they are there."""
        _change_connections()


class _Message:
    """How much of one message has been read."""

    __slots__ = ("_body", "_head", "_head_size")

    def __init__(self) -> None:
        self._head = bytearray(_LONG)
        self._head_size = 0
        self._body = 0

    def add(self, chunk: bytes) -> None:
        """Note what has been read."""
        if self._head_size < self._head_end:
            begin, self._head_size = self._head_size, self._head_size + len(chunk)
            self._head[begin : self._head_size] = chunk
        else:
            self._body += len(chunk)

    def drop_rest(self, fd: int) -> None:
        """Read what is left of a message of which anything was read. Raises OSError."""
        if not self._head_size:
            return
        while self._head_size < self._head_end:
            with memoryview(self._head)[self._head_size : self._head_end] as part:
                self._head_size += _read_into(fd, part)
        begin = self._head_end - 8 if self._head_end == _LONG else 0
        left = int.from_bytes(self._head[begin : self._head_end], "big") - self._body
        while left > 0:
            with memoryview(_dropped)[:left] as part:
                left -= _read_into(fd, part)

    @property
    def _head_end(self) -> int:
        return _LONG if self._head_size >= _SHORT and self._head.startswith(_FOLLOWS) else _SHORT


def _read_into(fd: int, part: memoryview) -> int:
    count = os.readv(fd, (part,))
    if not count:
        raise EOFError
    return count


def _change_connections() -> None:
    for name in _MODULES:
        connection: Any = getattr(sys.modules.get(name), "Connection", None)
        own = {one: getattr(connection, one, None) for one in ("_recv", "_recv_bytes")}
        if all(getattr(function, "__module__", "") == name for function in own.values()):
            connection._recv = _noting(connection._recv)
            connection._recv_bytes = _dropping(connection._recv_bytes)


def _noting(receive: Callable[..., Any]) -> Callable[..., Any]:
    """Return this function of a connection, which reads so many bytes, so that it notes what was read."""

    def _recv(self: Any, size: int, read: Callable[[int, int], bytes] = os.read) -> Any:
        message: Optional[_Message] = getattr(_reading, "message", None)

        if message is None:
            return receive(self, size, read)
        add = message.add

        def read_noted(handle: int, count: int) -> bytes:
            chunk = read(handle, count)
            add(chunk)
            return chunk

        return receive(self, size, read_noted)

    return _recv


def _dropping(receive_bytes: Callable[..., Any]) -> Callable[..., Any]:
    """Return this function of a connection, which reads a message, so that it reads it in any case."""

    def _recv_bytes(self: Any, maxsize: Any = None) -> Any:
        message = _reading.message = _Message()
        try:
            return receive_bytes(self, maxsize)
        except MemoryError:
            with contextlib.suppress(OSError, EOFError):
                message.drop_rest(self.fileno())
            raise
        finally:
            _reading.message = None

    return _recv_bytes
