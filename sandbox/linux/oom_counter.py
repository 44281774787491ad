"""Whether the kernel's killer for want of memory has struck on this machine, just before a process ended.

The kernel counts such kills for the whole machine, and does not say whom. So a count that has risen proves
nothing about a process of ours: it is a hint, and the narrower the time, the better. Only a kill within the
last moments before the end counts, not one that happened elsewhere, days ago, in the life of the same child.
"""

from __future__ import annotations

from collections.abc import Callable

#: The count is read at looks at the tree, this often at most (35 microseconds each), and compared at the end
#: with one at least as old: a process that the kernel kills may take that long to give its memory back.
EVERY_S = 1.0


def machine_kills() -> int:
    """Return how often the kernel has killed a process for want of memory; 0 if it does not say."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


class OomWatch:
    """The count of the kernel's kills, as it was a moment ago."""

    def __init__(self, now: float, *, count: Callable[[], int] = machine_kills) -> None:
        """`now`: seconds of any clock; `count` is where the numbers come from."""
        self._count = count
        self._newest = self._before = count()
        self._read_at = now

    def look(self, now: float) -> None:
        """Move on: what was killed more than a moment ago had nothing to do with an end that is to come."""
        if now - self._read_at < EVERY_S:
            return
        long_ago = now - self._read_at >= 2 * EVERY_S  # the tree was idle, and nobody looked
        self._read_at = now
        before, self._newest = self._newest, self._count()
        self._before = self._newest if long_ago else before

    def has_struck(self) -> bool:
        """Return whether somebody was killed since one or two moments before the last look."""
        return self._count() > self._before
