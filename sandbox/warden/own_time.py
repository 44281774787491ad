"""The time of a process itself: what it computes or sleeps, not what it waits for a processor.

So a decision after some seconds is the same on a busy machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..linux import procfs

if TYPE_CHECKING:
    from ..usage.process_table import Process

#: A process that uses less of a core sleeps, if it does not wait for a processor.
WORK_SHARE = 0.1
#: Shortest time for which it is asked whether a process sleeps.
LEAST_S = 0.05


def cpu_ns(process: Process) -> int:
    """Return the CPU time that a process has used; 0 when it is gone."""
    try:
        return procfs.cpu_ns(process.clock)
    except OSError:
        return 0


def sleeps(pid: int) -> bool:
    """Whether all threads of the process wait for something else than a processor, or have ended."""
    try:
        return all(procfs.stat(int(thread)).state in b"SZX" for thread in os.listdir(f"/proc/{pid}/task"))
    except (OSError, ValueError):
        return False


class OwnTime:
    """Measures the time of one process itself, from look to look."""

    __slots__ = ("_at", "_cpu_ns", "_process")

    def __init__(self, process: Process, now: float) -> None:
        self._process = process
        self._at = now
        self._cpu_ns = cpu_ns(process)

    def passed_s(self, now: float) -> float:
        """Return what has passed since the last call that has returned more than 0."""
        passed_s = now - self._at
        if passed_s < LEAST_S:
            return 0.0
        before_ns, self._at, self._cpu_ns = self._cpu_ns, now, cpu_ns(self._process)
        computed_s = (self._cpu_ns - before_ns) / 1e9
        is_gone = computed_s < 0
        if is_gone or (computed_s < WORK_SHARE * passed_s and sleeps(self._process.pid)):
            return passed_s
        return min(computed_s, passed_s)  # several threads compute at a time


class TimeSince:
    """The time of a process itself since it was held back; of one that has ended, all time."""

    __slots__ = ("_at", "_own_time", "_passed_s")

    def __init__(self) -> None:
        self._at = float("-inf")
        self._own_time: OwnTime | None = None
        self._passed_s = 0.0

    def look(self, at: float, process: Process | None, now: float) -> None:
        """Measure; `at`: when the process was held back the last time."""
        if at == self._at:
            self._pass(now)
        else:
            self._at, self._passed_s = at, now - at
            self._own_time = OwnTime(process, now) if process is not None else None

    def ago_s(self, at: float, now: float) -> float:
        """Return how long ago that was."""
        if at == self._at and self._own_time is not None:
            self._pass(now)
            return max(0.0, min(self._passed_s, now - at))
        return max(0.0, now - at)

    def _pass(self, now: float) -> None:
        if self._own_time is not None:
            self._passed_s += self._own_time.passed_s(now)
