"""A request that the storage process works on: when it last moved on, and whether anybody waits for it."""

from __future__ import annotations

import mmap
import os
import time
from typing import Any

from ...sandbox.codec.codec import Buffer
from .requests import Message


class Abandoned(Exception):
    """Nobody waits for this request any more: its task was answered, or is over."""


class Job:
    """One request."""

    def __init__(self, message: Message) -> None:
        self.id = int(message.fields["id"])
        self.what = str(message.fields["do"])
        self.fields: dict[str, Any] = message.fields
        self.is_abandoned = False
        self.began_at = 0.0  #: when a thread began to work on it
        self.moved_at = time.monotonic()  #: when the storage last gave or took some bytes
        self._fd = message.fd
        self._size = message.size
        self._data = message.data

    def progress(self) -> None:
        """Note that bytes were moved. Raises Abandoned when nobody waits any more."""
        if self.is_abandoned:
            raise Abandoned
        self.moved_at = time.monotonic()

    def data(self) -> Buffer:
        """Return the bytes of the request."""
        if self._fd < 0:
            return self._data
        # A view of the sender's memory, which cannot be shortened (sandbox/shared/channel.seal).
        # All of it is read: its pages are mapped at once.
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return memoryview(mmap.mmap(self._fd, self._size, flags, mmap.PROT_READ))

    def close(self) -> None:
        """Release the memory of the request."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
