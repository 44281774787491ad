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
from typing import Any, Callable

#: multiprocessing's connections, also those of the copy that uses dill.
_MODULES = ("multiprocessing.connection", "multiprocess.connection")
_dropped = bytearray(1 << 16)  #: what is dropped is read into this: there is no memory


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


def _change_connections() -> None:
    for name in _MODULES:
        connection: Any = getattr(sys.modules.get(name), "Connection", None)
        receive = getattr(connection, "_recv", None)
        if receive is not None and getattr(receive, "__module__", "") == name:
            connection._recv = _dropping(receive)


def _dropping(receive: Callable[..., Any]) -> Callable[..., Any]:
    """Return this function of a connection, which reads so many bytes, so that it reads them in any case."""

    def _recv(self: Any, size: int, read: Callable[[int, int], bytes] = os.read) -> Any:
        left = size

        def read_counted(handle: int, count: int) -> bytes:
            nonlocal left
            chunk = read(handle, count)
            left -= len(chunk)
            return chunk

        try:
            return receive(self, size, read_counted)
        except MemoryError:
            with contextlib.suppress(OSError):
                while left > 0:
                    with memoryview(_dropped)[:left] as part:
                        count = os.readv(self.fileno(), (part,))
                    left = left - count if count else 0
            raise

    return _recv
