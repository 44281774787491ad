"""What can go wrong with an object: each error is one sentence for the task that needs the object."""

from __future__ import annotations


class StorageError(Exception):
    """The object cannot be read or written; the text says which one and why."""


class ObjectInvalid(StorageError):
    """The object was read, and its bytes are no value."""
