"""Messages of the worker as they lie in memory: bytes, or for a large one a memfd that is passed on uncopied.

A child gets the memfd itself. One is kept for the next large message, whose pages are there already.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable

from ...sandbox.shared.channel import seal
from ..io.loop import Loop, Timer

#: The memfd kept for the next large message is given back after this long without one.
KEEP_BLOB_S = 5.0


class MessageMemory:
    """A memfd with a message in it; `release()` when its content is not needed any more."""

    def __init__(self, capacity: int, released: Callable[[MessageMemory], None] | None = None) -> None:
        self.fd = os.memfd_create("hkrunner-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, capacity)
        # Handed to the child, which must not be able to shorten it under our mapping (SIGBUS).
        seal(self.fd)
        self.capacity = capacity
        self.size = 0
        self.map = mmap.mmap(self.fd, capacity)
        self._released = released

    def view(self) -> memoryview:
        """Return the content; release the view before release()."""
        return memoryview(self.map)[: self.size]

    def release(self) -> None:
        """The content is not needed any more."""
        if self._released is not None:
            self._released(self)
        else:
            self.close()

    def disown(self) -> None:
        """Release it for good: whoever else holds the descriptor has it alone."""
        self._released = None

    def close(self) -> None:
        """Give the memory back."""
        if self.fd >= 0:
            # A view somebody still holds keeps the mapping until it goes.
            with contextlib.suppress(BufferError):
                self.map.close()
            os.close(self.fd)
            self.fd = -1


class WorkerMessage:
    """One message of the worker: `data`, or for a large one `blob`."""

    __slots__ = ("blob", "data")

    def __init__(self, data: bytes, blob: MessageMemory | None = None) -> None:
        self.data = data
        self.blob = blob

    @property
    def head(self) -> bytes:
        """The first bytes, enough to find the command."""
        return self.data if self.blob is None else bytes(self.blob.map[: min(256, self.blob.size)])

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return len(self.data) if self.blob is None else self.blob.size

    def whole(self) -> bytes:
        """All of it, copied if it is large."""
        return self.data if self.blob is None else bytes(self.blob.view())

    def release(self) -> None:
        """Nothing of it is needed any more."""
        if self.blob is not None:
            self.blob.release()


class MessageMemoryPool:
    """Where blobs come from, and where they go back to."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._kept: MessageMemory | None = None
        self._timer: Timer | None = None
        self._is_closed = False

    def new(self, size: int) -> MessageMemory:
        """Return a blob for this many bytes: the kept one if it fits, whose pages are there already."""
        blob, self._kept = self._kept, None
        if blob is not None and not size <= blob.capacity <= max(4 * size, 16 * 1024**2):
            blob.close()
            blob = None
        if blob is None:
            blob = MessageMemory(size, self._keep)
        blob.size = size
        return blob

    def _keep(self, blob: MessageMemory) -> None:
        if self._kept is not None or self._is_closed:
            blob.close()
            return
        self._kept = blob
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.after(KEEP_BLOB_S, self.forget)

    def close(self) -> None:
        """Keep none, from now on."""
        self._is_closed = True
        self.forget()

    def forget(self) -> None:
        """Give the memory of the kept one back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._kept is not None:
            self._kept.close()
            self._kept = None
