"""The memory files in which a worker of a Pool gets its large tasks."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

from ...sandbox.shared.channel import Buffer, seal, write_all

#: Number and largest size of the files that are kept for a worker: their pages exist already, which makes
#: them four times faster to write.
_KEPT, _KEPT_BYTES = 4, 16 * 1024 * 1024
#: Up to this size they are mapped, and copied to: three times faster than pwrite() (0.03 and 0.08 ms a
#: megabyte). But a copy holds the interpreter's lock, and pwrite() does not.
_MAPPED_BYTES = 4 * 1024 * 1024
#: Files grow in steps of this size, so that the next task seldom needs another mapping.
_STEP = 256 * 1024


class MemoryFiles:
    """The memory files of one worker. Each of those that are kept holds one task at a time."""

    def __init__(self) -> None:
        self._kept: list[_MemoryFile] = []

    def write(self, pieces: Iterable[Buffer], size: int, *, task: int, first: int) -> int:
        """Return a descriptor of a file with these pieces; the caller closes it.

        `task`: the task's number. `first`: that of the first task which has not ended; the files of those
        before it are free.
        """
        if size > _KEPT_BYTES:
            return _written(_new_file(), pieces)
        free = [one for one in self._kept if one.task < first]
        if free:
            # The one that was used last: it is more likely to be in the CPU's cache.
            file = max(free, key=lambda one: one.task)
        elif len(self._kept) < _KEPT:
            file = _MemoryFile()
            self._kept.append(file)
        else:
            return _written(_new_file(), pieces)
        file.task = task
        file.write(pieces, size)
        return os.dup(file.fd)

    def close(self) -> None:
        """Close all files."""
        for file in self._kept:
            file.close()
        self._kept.clear()


class _MemoryFile:
    def __init__(self) -> None:
        self.fd = _new_file()
        self.task = 0  #: the last one whose message is in it
        self._map: mmap.mmap | None = None

    def write(self, pieces: Iterable[Buffer], size: int) -> None:
        if size > _MAPPED_BYTES:
            _written(self.fd, pieces)
            return
        if self._map is None or len(self._map) < size:
            self._map_bytes(-(-size // _STEP) * _STEP)
        assert self._map is not None, "it was mapped"
        at = 0
        for one in pieces:
            self._map[at : at + len(one)] = one
            at += len(one)

    def _map_bytes(self, size: int) -> None:
        self._unmap()
        if os.fstat(self.fd).st_size < size:
            os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size)

    def _unmap(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def close(self) -> None:
        self._unmap()
        os.close(self.fd)


def _new_file() -> int:
    fd = os.memfd_create("hkrunner", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    seal(fd)  # a worker that shortens it would have this process killed by SIGBUS
    return fd


def _written(fd: int, pieces: Iterable[Buffer]) -> int:
    at = 0
    for one in pieces:
        write_all(fd, one, at)
        at += len(one)
    return fd
