"""An object of HKube's storage that was found, and the two kinds of storage as one interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from .errors import StorageError
from .file_region import Bytes


class StoredObject(NamedTuple):
    """An object: `data` is the value behind the header; it can be read until close()."""

    name: str  #: for messages: where it is
    header: bytes | None
    data: Bytes
    close: Callable[[], None]


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
