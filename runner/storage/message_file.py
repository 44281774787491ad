"""The memory in which a large message goes to the algorithm's process, filled without a copy in this one."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence

from ...sandbox.codec.codec import Buffer
from ...sandbox.shared.channel import seal
from .file_region import Bytes, FileRegion, append, joined


class MessageFile:
    """A memfd for one message at a time. It is reused, because its pages exist already, and are mapped.

    Only for messages that are not read any more when the next one is written: a process that has the
    descriptor sees what is written later.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._capacity = 0
        self._map: mmap.mmap | None = None

    def write(self, pieces: Sequence[Bytes], progress: Callable[[], None]) -> tuple[int, int]:
        """Write a message; return the descriptor, which stays this object's, and the size."""
        size = sum(len(one) for one in pieces)
        if self._fd < 0 or not size <= self._capacity <= max(4 * size, 16 * 1024**2):
            self.close()
            self._fd = os.memfd_create("hkrunner-input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self._fd, size)
            seal(self._fd)
            # Not through a mapping: without memory, a write fails, but access to a mapping ends the process.
            for one in joined(pieces):
                append(self._fd, one, progress)
            self._capacity = size
        else:
            self._write_again(pieces, progress)
        return self._fd, size

    def _write_again(self, pieces: Sequence[Bytes], progress: Callable[[], None]) -> None:
        """Write into the memory that is there: half of what sendfile() costs."""
        view, at = memoryview(self._mapped()), 0
        for one in joined(pieces):
            if isinstance(one, FileRegion):
                one.read_into(view[at : at + len(one)], progress)
            else:
                view[at : at + len(one)] = one
            at += len(one)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            self._map = mmap.mmap(self._fd, self._capacity)
        return self._map

    def view(self, size: int) -> Buffer:
        """Return what was written."""
        return memoryview(self._mapped())[:size]

    def close(self) -> None:
        """Give the memory back to the system."""
        self._map = None  # a view that is still in use keeps it
        self._capacity = 0
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
