"""Encoded values in memory, up to a number of bytes; the oldest go first, as in HKube's wrappers."""

from __future__ import annotations

import threading

from .encoded_value import EncodedValue

#: At most so many ids of values that were not kept are remembered.
MISSED_MAX = 1000


class ValueCache:
    """Values by the id under which HKube's links name them. Several threads may use it at a time."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._values: dict[str, EncodedValue] = {}
        self._missed: dict[str, None] = {}  #: ids of values that were needed once, and not kept
        self._lock = threading.Lock()

    def get(self, name: str) -> EncodedValue | None:
        """Return the value; None if it is not here (any more)."""
        return self._values.get(name)

    def fits(self, size: int) -> bool:
        """Whether a value of this size may be here at all."""
        return size <= self._most_bytes

    def is_worth_a_copy(self, name: str, size: int) -> bool:
        """Whether to keep a value for which it has to be copied: it fits, and is needed a second time."""
        with self._lock:
            if not self.fits(size) or name in self._missed:
                return self.fits(size)
            self._missed[name] = None
            if len(self._missed) > MISSED_MAX:
                del self._missed[next(iter(self._missed))]
            return False

    def put(self, name: str, value: EncodedValue) -> None:
        """Keep the value, whose bytes must not change any more; one that is here already stays."""
        size = len(value.data)
        with self._lock:
            if not self.fits(size) or name in self._values:
                return
            self._values[name] = value
            self._bytes += size
            while self._bytes > self._most_bytes:
                oldest = next(iter(self._values))
                self._bytes -= len(self._values.pop(oldest).data)
