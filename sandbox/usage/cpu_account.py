"""CPU time of a process tree, ended processes included; each nanosecond is counted once.

A process's own time is its CPU clock. When a parent waits for an ended child, the kernel adds the child's
time to the parent's sum, with that of all children for which the child had waited. So at any moment

    total = sum over the living of (own clock + sum of waited-for children) + rusage of those we waited for

and the time of a process that ends only moves from one term to another. One gap: a parent that ignores
SIGCHLD never waits, and the kernel adds nothing. For those children the last reading of their clock is kept.
"""

from __future__ import annotations

import signal
from typing import Any, Protocol

from ..linux import procfs

_SIGCHLD_BIT = 1 << (signal.SIGCHLD - 1)


class Timed(Protocol):
    """The attributes of a process that CpuAccount reads and updates."""

    pid: int
    parent: int
    clock: int
    own_ns: int
    children_ns: int
    threads: int


class CpuAccount:
    """Sums up the CPU time of one tree."""

    def __init__(self) -> None:
        self._ended_ns = 0
        self._highest_ns = 0

    def refresh(self, living: dict[int, Any], *, some_ended: bool) -> int:
        """Read the clocks of the living; return the total in nanoseconds, which never falls.

        `some_ended`: whether a process may have been waited for since the last call. Only then are the
        parents' sums read, which costs ten times as much as the clocks.
        """
        if some_ended:
            self._read_parents(living)
        total, all_there = self._read_clocks(living)
        if not all_there and not some_ended:
            self._read_parents(living)
            total, _ = self._read_clocks(living)
        # A child that ends between the two readings is in neither; the next call counts it again.
        self._highest_ns = max(self._highest_ns, total)
        return self._highest_ns

    def _read_parents(self, living: dict[int, Any]) -> None:
        """Read the sums of waited-for children.

        Always before the clocks: in the other order a child that ends in between is counted twice.
        """
        for one in living.values():
            try:
                stat = procfs.stat(one.pid)
            except (OSError, ValueError):
                continue
            one.children_ns = stat.ended_children_ns
            one.threads = stat.threads

    def _read_clocks(self, living: dict[int, Any]) -> tuple[int, bool]:
        total = self._ended_ns
        all_there = True
        for one in living.values():
            try:
                one.own_ns = procfs.cpu_ns(one.clock)
            except OSError:
                all_there = False
                continue
            total += one.own_ns + one.children_ns
        return total, all_there

    def reaped(self, usage: Any) -> None:
        """Add the rusage of a process that the warden has waited for, its waited-for children included."""
        self._ended_ns += int((usage.ru_utime + usage.ru_stime) * 1e9)

    def vanished(self, one: Timed, parent: Timed | None) -> None:
        """Add the last reading of an ended process if its parent ignores SIGCHLD, and so never waits."""
        if parent is None:
            return
        try:
            ignored = procfs.status_field(parent.pid, b"SigIgn", 16)
        except (OSError, ValueError):
            return
        if ignored is not None and ignored & _SIGCHLD_BIT:
            self._ended_ns += one.own_ns + one.children_ns
