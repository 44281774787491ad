"""How many bytes of a package have been written or sent, told now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...sandbox.shared.limits import format_bytes

#: Between two words.
_TELL_S = 0.1


class ByteProgress:
    """Counts, and tells: "packing: 1.2 GiB of 3 GiB". What is done at once is not told."""

    def __init__(self, what: str, total: int, tell: Callable[[str], None]) -> None:
        self._what, self._total, self._tell = what, total, tell
        self._told_at = time.monotonic()
        self.done = 0

    def add(self, size: int) -> None:
        """Count this many more bytes."""
        self.done += size
        now = time.monotonic()
        if now - self._told_at >= _TELL_S:
            self._told_at = now
            self._tell(f"{self._what}: {format_bytes(self.done)} of {format_bytes(self._total)}")


def untold(_text: str) -> None:
    """Show nothing."""
