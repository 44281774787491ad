"""The time limits of the tasks in one worker of a Pool, in memory that the worker does not share.

The supervising process enforces a limit even while C code in the user's process holds the interpreter lock:
then only the worker tells which task it runs and since when (task_marks.py), and what it writes may be false.
So the user's process writes here how long each task may take, and when all that it has sent must have ended.
"""

from __future__ import annotations

import mmap
import os

#: Number of time limits. That of a task is at its number modulo this; fewer tasks wait in a worker.
_PLACES = 256
_DUE, _FIRST, _LIMITS = 0, 1, 2
_BYTES = 8 * (_LIMITS + _PLACES)


class PoolDeadlines:
    """Numbers of 8 bytes, each of which is written and read in one access. 0: no limit."""

    def __init__(self, fd: int) -> None:
        """`fd`: from new_file(); it stays the caller's."""
        self._map = mmap.mmap(fd, _BYTES)
        self._numbers = memoryview(self._map).cast("d")

    @staticmethod
    def new_file() -> int:
        """Return a memory file without any limit; raises OSError."""
        fd = os.memfd_create("hkrunner-deadlines", os.MFD_CLOEXEC)
        os.ftruncate(fd, _BYTES)
        return fd

    def set_limit(self, task: int, seconds: float | None) -> None:
        """Note the limit of a task that will be sent."""
        self._numbers[_LIMITS + task % _PLACES] = seconds or 0.0

    def limit_of(self, task: int) -> float:
        """Return the limit of a task that was sent."""
        return self._numbers[_LIMITS + task % _PLACES]

    def set_due(self, at: float, first: float | None) -> None:
        """Note when all tasks that were sent must have ended, on the monotonic clock.

        `first`: the limit of the first of them.
        """
        self._numbers[_FIRST] = first or 0.0
        self._numbers[_DUE] = at

    def due(self) -> tuple[float, float]:
        """Return both numbers of set_due()."""
        return self._numbers[_DUE], self._numbers[_FIRST]

    def close(self) -> None:
        """Unmap the memory."""
        self._numbers.release()
        self._map.close()
