"""A request that the storage process works on: when bytes last moved, and whether its answer is awaited."""

from __future__ import annotations

import mmap
import os
import time

from ...sandbox.codec.codec import Buffer
from ...sandbox.shared.storage_messages import StorageRequest


class Abandoned(Exception):
    """The answer of this request is not awaited any more: its task was answered, or is over."""


class Job:
    """One request."""

    def __init__(self, request: StorageRequest, fd: int = -1) -> None:
        """`fd`: the memfd with the bytes of a large request; it is the job's to close."""
        self.request = request
        self.id = request.id
        self.is_abandoned = False
        self.began_at = 0.0  #: when a thread began to work on it
        self.moved_at = time.monotonic()  #: when the storage last gave or took some bytes
        self._fd = fd

    def progress(self) -> None:
        """Note that bytes were moved. Raises Abandoned when the answer is not awaited any more."""
        if self.is_abandoned:
            raise Abandoned
        self.moved_at = time.monotonic()

    def data(self) -> Buffer:
        """Return the bytes of the request."""
        if self._fd < 0:
            assert isinstance(self.request.wire, bytes), "it was received so"
            return self.request.wire
        # A view of the sender's memory, which cannot be shortened (sandbox/shared/channel.seal).
        # All of it is read: its pages are mapped at once.
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return memoryview(mmap.mmap(self._fd, self.request.size, flags, mmap.PROT_READ))

    def close(self) -> None:
        """Release the memory of the request."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
