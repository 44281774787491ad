"""Whether the kernel's OOM killer has killed a process on this machine just before a child ended.

The kernel counts such kills for the whole machine, and does not say which processes. So a higher count is a
hint that the child was killed, and the shorter the time, the better. Only a kill in the last one or two
seconds before the end counts, not one that happened elsewhere, days ago, during the life of the same child.
"""

from __future__ import annotations

from collections.abc import Callable

#: Shortest interval between readings of the count, which take 35 microseconds each. At the end the count is
#: compared with one at least this old: a process may take that long to end after the kernel has killed it.
EVERY_S = 1.0


def machine_kills() -> int:
    """Return how many processes the OOM killer has killed since boot; 0 if the kernel does not say."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


class OomWatch:
    """Remembers the count of OOM kills as it was one or two seconds ago."""

    def __init__(self, now: float, *, count: Callable[[], int] = machine_kills) -> None:
        """`now`: seconds of any clock; `count` returns the number of kills."""
        self._count = count
        self._newest = self._before = count()
        self._read_at = now

    def look(self, now: float) -> None:
        """Read the count if it is due, and forget older ones: those kills did not end the child."""
        if now - self._read_at < EVERY_S:
            return
        long_ago = now - self._read_at >= 2 * EVERY_S  # the tree was idle, and was not measured
        self._read_at = now
        before, self._newest = self._newest, self._count()
        self._before = self._newest if long_ago else before

    def has_struck(self) -> bool:
        """Return whether a process was killed since one or two intervals before the last reading."""
        return self._count() > self._before
