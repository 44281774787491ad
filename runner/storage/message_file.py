"""The memory in which a large message goes to the algorithm's process, filled without a copy in this one."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence

from ...sandbox.codec.codec import Buffer
from ...sandbox.shared.channel import seal
from .file_region import Bytes, append


class MessageFile:
    """A memfd for one message at a time. It is used again: its pages are there already then.

    Only for messages that nobody reads any more when the next one is written: whoever got the descriptor
    sees what is written later.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._capacity = 0

    def write(self, pieces: Sequence[Bytes], progress: Callable[[], None]) -> tuple[int, int]:
        """Write a message; return the descriptor, which stays this object's, and the size."""
        size = sum(len(one) for one in pieces)
        if self._fd < 0 or not size <= self._capacity <= max(4 * size, 16 * 1024**2):
            self.close()
            self._fd = os.memfd_create("hkrunner-input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self._fd, size)
            seal(self._fd)
            self._capacity = size
        os.lseek(self._fd, 0, os.SEEK_SET)
        for one in pieces:
            append(self._fd, one, progress)
        return self._fd, size

    def view(self, size: int) -> Buffer:
        """Return what was written."""
        return memoryview(mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ))

    def close(self) -> None:
        """Give the memory back to the system."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
