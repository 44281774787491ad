"""Messages of the worker in memory: bytes, or for a large one a memfd that is passed on without a copy.

A child gets the memfd itself. One memfd is kept for the next large message, so that its pages are reused.
"""

from __future__ import annotations

import contextlib
import mmap
import os

from ...sandbox.shared.channel import seal
from ..io.loop import Loop, Timer

#: Release the kept memfd after this long without a large message.
KEEP_BLOB_S = 5.0


class MessageMemory:
    """A memfd that holds a message. Call release() when its content is not needed any more."""

    def __init__(self, capacity: int, pool: MessageMemoryPool | None = None) -> None:
        """Raises OSError where the system has no descriptor, or no memory for it."""
        self.fd = os.memfd_create("hkrunner-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, capacity)
            # The child gets it, and must not be able to shorten it under our mapping (SIGBUS).
            seal(self.fd)
            self.map = mmap.mmap(self.fd, capacity)
        except OSError:  # `ulimit -v`, most likely
            os.close(self.fd)
            raise
        self.capacity = capacity
        self.size = 0
        #: Whether all of it is ASCII, and so UTF-8; False: that was not looked at, or is not so.
        self.is_ascii = False
        self._pool = pool

    @classmethod
    def adopt(cls, fd: int, size: int) -> MessageMemory:
        """Return the message in a memfd that another process of ours has filled; it owns the descriptor.

        Raises OSError, with the descriptor closed.
        """
        self = cls.__new__(cls)
        self.fd, self.capacity, self.size = fd, size, size
        self.is_ascii = False
        try:
            self.map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError:
            os.close(fd)
            raise
        self._pool = None
        return self

    def view(self) -> memoryview:
        """Return the content; release the view before release()."""
        return memoryview(self.map)[: self.size]

    def release(self) -> None:
        """Give the memory back for the next message, or to the system."""
        if self._pool is not None:
            self._pool.keep(self)
        else:
            self.close()

    def disown(self) -> None:
        """Never reuse the memory, which another process reads: release() closes the descriptor here."""
        self._pool = None

    def lend(self) -> int:
        """Return a descriptor that is the caller's; the memory is used again after the pool's take_back()."""
        return self.detach() if self._pool is None else self._pool.lend(self)

    def detach(self) -> int:
        """Return the descriptor, which is the caller's from now on; nothing else of this is used any more."""
        fd, self.fd = self.fd, -1
        with contextlib.suppress(BufferError):
            self.map.close()
        return fd

    def close(self) -> None:
        """Give the memory back to the system."""
        if self.fd >= 0:
            # A view that is still in use keeps the mapping alive.
            with contextlib.suppress(BufferError):
                self.map.close()
            os.close(self.fd)
            self.fd = -1


class WorkerMessage:
    """One message of the worker: `data`, or for a large one `blob`."""

    __slots__ = ("blob", "data", "head", "size")

    def __init__(self, data: bytes, blob: MessageMemory | None = None) -> None:
        self.data = self.head = data
        self.blob = blob
        self.size = len(data)  #: of the whole message, in bytes
        if blob is not None:
            self.size = blob.size
            self.head = blob.map[: min(256, blob.size)]  #: the first bytes, enough to find the command

    def whole(self) -> bytes:
        """Return the whole message; a large one is copied."""
        return self.data if self.blob is None else bytes(self.blob.view())

    def release(self) -> None:
        """Give its memory back: the message is not needed any more."""
        if self.blob is not None:
            self.blob.release()


class MessageMemoryPool:
    """Makes memory for large messages, and keeps one for the next."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._kept: MessageMemory | None = None
        self._lent: MessageMemory | None = None
        self._timer: Timer | None = None
        self._is_closed = False

    def new(self, size: int) -> MessageMemory:
        """Return memory for this many bytes: the kept one if it fits, whose pages exist already."""
        blob, self._kept = self._kept, None
        if blob is not None and not size <= blob.capacity <= max(4 * size, 16 * 1024**2):
            blob.close()
            blob = None
        if blob is None:
            blob = MessageMemory(size, self)
        blob.size, blob.is_ascii = size, False
        return blob

    def keep(self, blob: MessageMemory) -> None:
        """Keep this memory for the next message, if no other one is kept."""
        if self._kept is not None or self._is_closed:
            blob.close()
            return
        self._kept = blob
        self._forget_later()

    def lend(self, blob: MessageMemory) -> int:
        """Return a descriptor of this memory, which is kept after take_back(), unless that comes late."""
        if self._lent is None and not self._is_closed:
            try:
                fd = os.dup(blob.fd)
            except OSError:  # no descriptor is left
                pass
            else:
                self._lent = blob
                self._forget_later()
                return fd
        return blob.detach()

    def take_back(self) -> None:
        """Nobody reads the memory any more that was lent."""
        lent, self._lent = self._lent, None
        if lent is not None:
            self.keep(lent)

    def _forget_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.after(KEEP_BLOB_S, self.forget)

    def close(self) -> None:
        """Keep no memory from now on."""
        self._is_closed = True
        self.forget()

    def forget(self) -> None:
        """Give the memory that is kept or lent back to the system; who has a descriptor of it reads on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for blob in (self._kept, self._lent):
            if blob is not None:
                blob.close()
        self._kept = self._lent = None
