"""Whether the kernel's OOM killer has killed a process on this machine just before a child ended.

The kernel counts such kills for the whole machine, and does not say which processes. So a higher count is a
hint that the child was killed, and the shorter the time, the better. Only a kill in the last one or two
seconds before the end counts, not one that happened elsewhere, days ago, during the life of the same child.

Two processes count. The warden looks as often as it measures, which it does not do while the child is idle or
its tasks are brief. The parent counts when a task begins, but then does not look again. A kill counts if both
have seen it: then it was neither before the task nor long before the end.
"""

from __future__ import annotations

from collections.abc import Callable

#: Shortest interval between readings of the count, which take 30 microseconds each. At the end the count is
#: compared with one at least this old: a process may take that long to end after the kernel has killed it.
EVERY_S = 1.0
#: The same for the readings at the beginnings of tasks. A kill so shortly before one may be told as its end.
AT_TASKS_S = 0.1


def machine_kills() -> int:
    """Return how many processes the OOM killer has killed since boot; 0 if the kernel does not say."""
    try:
        with open("/proc/vmstat", "rb", buffering=0) as file:
            return int(file.read().partition(b"\noom_kill ")[2].partition(b"\n")[0] or 0)
    except (OSError, ValueError):
        return 0


class OomWatch:
    """Remembers the count of OOM kills as it was one or two seconds ago, or just before a task began."""

    def __init__(self, now: float, *, count: Callable[[], int] = machine_kills) -> None:
        """`now`: seconds of any clock; `count` returns the number of kills."""
        self._count = count
        self._newest = self._before = count()
        self._read_at = now

    def look(self, now: float) -> None:
        """Read the count if it is due, and forget the one before the last."""
        if now - self._read_at >= EVERY_S:
            self._read_at = now
            self._before, self._newest = self._newest, self._count()

    def task_begins(self, now: float) -> None:
        """Forget the kills so far, unless the count was read in the last AT_TASKS_S: tasks may be brief."""
        if now - self._read_at >= AT_TASKS_S:
            self._read_at = now
            self._before = self._newest = self._count()

    def has_struck(self) -> bool:
        """Return whether a process was killed since the count that is remembered."""
        return self._count() > self._before
