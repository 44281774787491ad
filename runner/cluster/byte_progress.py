"""Reports how many bytes of a package were written or sent."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...sandbox.shared.limits import format_bytes

#: Seconds between two reports.
_REPORT_S = 0.1


class ByteProgress:
    """Counts bytes, and reports them: "packing: 1.2 GiB of 3 GiB". What is done at once is not reported."""

    def __init__(self, what: str, total: int, report: Callable[[str], None]) -> None:
        self._what, self._total, self._report = what, total, report
        self._reported_at = time.monotonic()
        self.done = 0

    def add(self, size: int) -> None:
        """Count this many more bytes."""
        self.done += size
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_S:
            self._reported_at = now
            self._report(f"{self._what}: {format_bytes(self.done)} of {format_bytes(self._total)}")


def show_nothing(_text: str) -> None:
    """Show nothing."""
