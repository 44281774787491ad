"""Measures a tree with psutil alone: on every system that psutil supports, and as a reference in tests.

It gives the same answers as TreeSampler at a hundred times the cost of a look, so it looks every 10 to
100 ms. Near the limit it uses PSS where psutil has it (Linux), and USS or RSS elsewhere. It does not see
shared memory that no process maps.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from ..shared.limits import Limits
from .usage import ProcessUse, Usage

#: Shortest and longest interval between two looks.
SOONEST_S = 0.01
LATEST_S = 0.1
#: Highest rate at which a tree can touch memory, in bytes a second.
RATE = 8e9
#: Share of the limit from which exact sums are read.
TRIGGER = 0.9
#: Largest share of a core for looks while far from the limit.
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
        """Import psutil, which takes 30 ms: construct it only after the child was started."""
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
        """The usage as of the last look."""
        return self._usage

    @property
    def peak_bytes(self) -> int:
        """The highest usage.memory_bytes so far."""
        return self._peak

    @property
    def files_peak_bytes(self) -> int:
        """Not measured."""
        return 0

    def restart_peak(self, began_at: float) -> None:
        """Forget the peak of the time before this call; `began_at` is not used."""
        self._peak = 0

    def pids(self) -> list[int]:
        """Return the pids of the tree, as of the last look or walk."""
        return list(self._processes)

    def descendants(self) -> list[int]:
        """Walk, and return the pids: TreeSampler checks its own list by them."""
        self.walk()
        return self.pids()

    def can_wait(self, now: float) -> bool:
        """False: no part of a look is cheaper than the whole."""
        return False

    def walk(self) -> None:
        """Update the list of processes now."""
        try:
            found = self._root.children(recursive=True)
        except self._psutil.Error:
            found = []
        # psutil compares by pid and creation time, so a reused pid is another process.
        self._processes = {
            one.pid: self._processes[one.pid] if self._processes.get(one.pid) == one else one for one in found
        }

    def walk_if_born(self) -> bool:
        """Walk; return whether there was a new process."""
        before = set(self._processes)
        self.walk()
        return not before.issuperset(self._processes)

    def look(self, now: float) -> float:
        """Measure the tree, which updates `usage`; return when to look next."""
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
        """Add the rusage of a process that the warden has waited for."""
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
        """Return the tree's memory with shared pages counted once, as exactly as this system allows."""
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
    """Import psutil, also where the interpreter was started without site-packages (-S), as the warden is."""
    if sys.flags.no_site and "site" not in sys.modules:
        import site

        site.main()
        # An hkrunner that is found by PYTHONPATH, which -I ignores, may have psutil beside it.
        sys.path.append(os.path.abspath(f"{os.path.dirname(__file__)}/../../.."))
    import psutil

    return psutil
