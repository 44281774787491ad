"""The tree through psutil alone: for every system it knows, and the reference for the fast path's tests.

The same answers as TreeSampler, for a hundred times the price a look: so it looks every 10 to 100 ms. Beyond
RSS it judges by PSS where psutil has it (Linux), by USS or RSS elsewhere; shared memory outside of mappings
is not seen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from ..shared.limits import Limits
from .usage import ProcessUse, Usage

SOONEST_S = 0.01
LATEST_S = 0.1
RATE = 8e9
TRIGGER = 0.9
#: Of a core, at most, for looks while far from the limit.
SHARE = 0.01


class PsutilSampler:
    """The usage of all processes below `root_pid`, which itself does not count."""

    def __init__(
        self,
        root_pid: int,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Import psutil, which takes 30 ms: make this once the child is on its way."""
        self._psutil = _psutil()
        self._root = self._psutil.Process(root_pid)
        self._limit = limits.memory_bytes if limits.enforced else None
        self._clock = clock
        self._processes: dict[int, Any] = {}
        self._rss: dict[int, int] = {}
        self._ended_s = 0.0
        self._highest_s = 0.0
        self._peak = 0
        self._cost = 0.0
        self._usage = Usage()
        self.next_at = 0.0

    @property
    def usage(self) -> Usage:
        """The last look."""
        return self._usage

    @property
    def peak_bytes(self) -> int:
        """The most that usage.memory_bytes has been."""
        return self._peak

    @property
    def files_peak_bytes(self) -> int:
        """Not measured."""
        return 0

    def restart_peak(self, began_at: float) -> None:
        """Forget the peak: from the next look on it is that of the time after this call."""
        self._peak = 0

    def pids(self) -> list[int]:
        """The processes of the tree as of the last look or walk."""
        return list(self._processes)

    def descendants(self) -> list[int]:
        """Walk, and return the processes: another way than the fast path's, to check it by."""
        self.walk()
        return self.pids()

    def can_wait(self, now: float) -> bool:
        """A look is a look."""
        return False

    def walk(self) -> None:
        """Bring the list of processes up to date now."""
        try:
            found = self._root.children(recursive=True)
        except self._psutil.Error:
            found = []
        # psutil compares by pid and creation time, so a reused pid is another process.
        self._processes = {
            one.pid: self._processes[one.pid] if self._processes.get(one.pid) == one else one for one in found
        }

    def walk_if_born(self) -> bool:
        """Walk; whether somebody new was there."""
        before = set(self._processes)
        self.walk()
        return not before.issuperset(self._processes)

    def look(self, now: float) -> float:
        """Look at the tree; return when to look next. From then on `usage` tells what was seen."""
        began = self._clock()
        self.walk()
        self._rss = {}
        threads = 0
        for pid, one in self._processes.items():
            try:
                with one.oneshot():
                    self._rss[pid] = one.memory_info().rss
                    threads += one.num_threads()
            except self._psutil.Error:
                continue
        rss = sum(self._rss.values())
        pss = None
        if self._limit is not None and rss >= TRIGGER * self._limit:
            pss = self._judged()
        memory = rss if pss is None else pss
        self._peak = max(self._peak, memory)
        self._usage = Usage(
            rss_bytes=rss,
            pss_bytes=pss,
            processes=len(self._processes),
            threads=threads,
            cpu_s=self.cpu_ns() / 1e9,
            memory_bytes=memory,
            is_judged=pss is not None,
        )
        self._cost = self._clock() - began
        pause = LATEST_S if self._limit is None else min(LATEST_S, (self._limit - memory) / RATE)
        self.next_at = now + max(
            SOONEST_S, pause, min(self._cost / SHARE, LATEST_S * 10) if pause >= LATEST_S else 0
        )
        return self.next_at

    def cpu_ns(self) -> int:
        """Return the CPU time of the tree up to now, ended processes included; it never falls."""
        total = self._ended_s
        for one in list(self._processes.values()):
            try:
                times = one.cpu_times()
            except self._psutil.Error:
                continue
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        self._highest_s = max(self._highest_s, total)
        return int(self._highest_s * 1e9)

    def reaped(self, pid: int, usage: Any) -> None:
        """Take into account a process that the warden has collected with wait4, and its rusage."""
        self._processes.pop(pid, None)
        self._rss.pop(pid, None)
        self._ended_s += usage.ru_utime + usage.ru_stime

    def top(self, count: int = 5) -> list[ProcessUse]:
        """Return the largest processes, largest first."""
        largest = sorted(self._rss.items(), key=lambda one: -one[1])[:count]
        found = []
        for pid, size in largest:
            try:
                name = self._processes[pid].name()
            except (KeyError, self._psutil.Error):
                name = "?"
            found.append(ProcessUse(pid, name, size))
        return found

    def close(self) -> None:
        """Forget the processes."""
        self._processes.clear()

    def _judged(self) -> int:
        """Return what the tree holds with shared pages shared out, as well as this system tells."""
        total = 0
        for pid, one in self._processes.items():
            try:
                full = one.memory_full_info()
            except self._psutil.Error:
                total += self._rss.get(pid, 0)
                continue
            total += getattr(full, "pss", None) or getattr(full, "uss", None) or full.rss
            total += getattr(full, "swap", 0)
        return total


def _psutil() -> Any:
    """Import psutil, also in an interpreter that has not looked for installed packages (-S): the warden."""
    if sys.flags.no_site and "site" not in sys.modules:
        import site

        site.main()
    import psutil

    return psutil
