"""An object of HKube's storage that was found, and the two kinds of storage as one interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ...sandbox.shared.container_limits import container_memory_bytes
from .errors import StorageError
from .file_region import Bytes

#: From this size on, check whether an object fits into memory.
CHECKED_FROM = 256 * 1024**2


class StoredObject(NamedTuple):
    """An object: `data` is the value behind the header; it can be read until close()."""

    name: str  #: its place, for messages
    header: bytes | None
    data: Bytes
    close: Callable[[], None]


def check_fits(size: int, name: str) -> None:
    """Raise StorageError for an object that is larger than what is left of the memory."""
    if size < CHECKED_FROM:
        return
    with open("/proc/meminfo", "rb") as file:
        known = dict(line.split(b":") for line in file)
    free = int(known[b"MemAvailable"].split()[0]) * 1024
    left = min(free, container_memory_bytes() or free)
    if size > left:
        raise StorageError(f"{name} has {size:,} bytes, and {left:,} bytes of memory are left")


class ObjectStore(Protocol):
    """Where objects are kept. `progress` is called whenever the storage has moved some bytes."""

    def open(self, path: str, progress: Callable[[], None]) -> StoredObject:
        """Return the object at this path; raises StorageError."""

    def write(self, path: str, header: bytes, body: Sequence[Bytes], progress: Callable[[], None]) -> None:
        """Write an object, which is there whole or not at all; raises StorageError."""


class NoStore:
    """A storage that cannot be used: every task fails with the reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def open(self, path: str, progress: Callable[[], None]) -> StoredObject:
        """Raise StorageError."""
        raise StorageError(self._reason)

    def write(self, path: str, header: bytes, body: Sequence[Bytes], progress: Callable[[], None]) -> None:
        """Raise StorageError."""
        raise StorageError(self._reason)
