"""A large answer of the child, on its way to the worker: read in pieces out of the child's memory file."""

from __future__ import annotations

import os


class AnswerBlob:
    """The bytes of one message in a memfd of the child.

    They are read, never mapped: the child can still write them (see sandbox/shared/channel.blob_problem).
    """

    def __init__(self, fd: int, size: int) -> None:
        """Own the descriptor."""
        self._fd = fd
        self.size = size

    @property
    def fd(self) -> int:
        """The descriptor; this object stays its owner."""
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly this piece. Raises OSError when the memory has become shorter."""
        data = os.pread(self._fd, length, offset)
        if len(data) != length:
            raise OSError("the answer became shorter while it was sent")
        return data

    def close(self) -> None:
        """Give the memory back to the child."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
