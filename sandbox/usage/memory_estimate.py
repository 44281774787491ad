"""The memory of a process tree: an estimate at each look, and the kernel's exact sums when they decide.

The sum of RSS counts shared pages several times (a pool of five that shares 150 MiB is not 750 MiB), and also
clean pages of files, which the kernel can drop at will. So the sum of RSS without file pages is only a
*trigger*: at 90 % of the limit the kernel's exact sums are read (PSS in smaps_rollup, which divides each
shared page among its processes). Without them a limit counts as exceeded only if private memory alone
exceeds it. Between two readings the estimate is the last PSS, plus the growth of RSS, plus the pages that
copy-on-write may have doubled without growth of RSS, of which there are at most as many as minor faults.

Reading the sums of 256 MiB in small pages takes 2 ms, in which a process touches 4 MiB more. So they are not
read again when the growth of private memory since the last reading exceeds the limit, or the private memory
of the only process does: no other process shares such pages.

Shared memory that no process maps is added (shared_memory.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from ..linux import procfs
from .process_table import GROWING_BYTES, SHARED_STEP_BYTES, ProcessTable
from .shared_memory import SharedMemory

#: Share of the limit from which on the exact sums are read.
TRIGGER = 0.9
#: Share of the limit above which a single process exceeds it without the exact sums.
CERTAIN = 1.1
#: Error of the kernel's counters, as a share of the limit, up to which to look again instead.
SMALL_DOUBT = 0.02
#: Interval between readings of the exact sums of several processes, for the figures shown.
EXACT_EVERY_S = 1.0
#: Most repetitions of a reading during which a process has forked.
EXACT_RETRIES = 2
#: Largest share of a core for readings.
EXACT_SHARE = 0.003


class MemoryEstimate:
    """Estimates the memory of one tree, in bytes."""

    def __init__(
        self,
        table: ProcessTable,
        limit: int | None,
        *,
        shared: SharedMemory | None,
        clock: Callable[[], float],
    ) -> None:
        """Nothing is read yet."""
        self.memory = 0  #: best estimate
        self.at_most = 0  #: upper bound
        self.at_least = 0  #: lower bound
        self.is_exact = True  #: whether no page can be in `memory` twice
        self.pss: int | None = None  #: the last exact sums
        self.is_judged = False  #: whether `memory` is from the exact sums, or certain without them
        self._table = table
        self._limit = limit
        self._shared = shared
        self._clock = clock
        self._certain = 0  # lower bound of private memory
        self._exact_at = 0.0
        self._exact_due_at = 0.0
        self._unmapped = 0  # shared memory beyond what mappings show, when the exact sums were read
        self._objects_then = 0

    def estimate(self) -> None:
        """Update the estimate and its bounds from the quick counters, without the exact sums."""
        memory = hidden = largest = largest_anon = unknown = certain = 0
        for one in self._table.processes.values():
            charge = one.anon + one.shmem
            if charge > largest:
                largest, largest_anon = charge, one.anon
            if one.pss < 0:
                memory += charge
                unknown += 1
            else:
                memory += one.pss + max(0, charge - one.judged_at)
                certain += max(0, one.pss + one.anon - one.anon_then)
                hidden += max(0, one.judged_at - one.pss)
        at_most = self._table.charge
        objects_now = objects_at_most = unmapped = 0
        if self._shared is not None:
            objects_now = self._shared.total_bytes
            objects_at_most = self._shared.at_most_bytes
            unmapped = self._unmapped + max(0, objects_now - self._objects_then)
            unmapped = min(unmapped, objects_now)
        self.is_exact = unknown == 0 or len(self._table.processes) == 1
        # The private pages of the only process are shared with no other.
        self._certain = max(certain, largest_anon if len(self._table.processes) == 1 else 0)
        self.memory = max(memory, largest) + unmapped
        self.at_least = self.memory if len(self._table.processes) == 1 else max(certain, largest_anon)
        at_most += objects_at_most
        if self._limit is not None and at_most >= TRIGGER * self._limit:
            # Copy-on-write makes a shared page private without a change of RSS, at one fault each.
            if hidden > GROWING_BYTES:
                hidden = min(hidden, self._faults_since_exact() * procfs.PAGE)
            at_most = min(at_most, self.memory + hidden + objects_at_most - objects_now)
        self.at_most = max(at_most, self.memory)

    def _faults_since_exact(self) -> int:
        faults = 0
        for one in self._table.processes.values():
            if one.pss >= 0:
                try:
                    faults += max(0, procfs.stat(one.pid).minor_faults - one.faults_then)
                except (OSError, ValueError):
                    continue
        return faults

    def is_exact_reading_due(self, now: float, *, count_first: bool, peak: int) -> bool:
        """Whether the exact sums should be read though the limit cannot be exceeded."""
        if now < self._exact_at:
            return False
        if count_first and self._table.births():
            return False
        if now >= self._exact_due_at:
            return len(self._table.processes) > 1
        if self.is_exact:
            return False
        near = self._limit is not None and self.at_most >= TRIGGER * self._limit
        return near or self.memory > peak * 1.05

    def judge(self, now: float, limit: int, *, is_frozen: bool) -> None:
        """Decide whether the limit is exceeded, after the upper bound has exceeded it.

        `is_frozen`: the caller has stopped the tree, and will continue it.
        """
        doubt = procfs.RSS_DOUBT_BYTES * 2 * len(self._table.processes)
        largest = max((one.anon for one in self._table.processes.values()), default=0)
        if self._certain > limit + doubt or largest > CERTAIN * limit + doubt:
            self.is_judged = True
        elif self._table.growing and self._certain > limit - doubt and doubt < SMALL_DOUBT * limit:
            # The next look, in a third of a millisecond, decides; the exact sums would take longer.
            self.memory = min(self.memory, limit)
        else:
            stopped = [] if is_frozen else self._stop_who_fills_shared_memory(limit)
            try:
                self.read_exact(now)
            finally:
                for pid in stopped:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGCONT)

    def _stop_who_fills_shared_memory(self, limit: int) -> list[int]:
        """Stop the processes whose shared memory has grown since the last reading; return their pids.

        Reading the sums of a process that fills a shared map took up to 58 ms, in which it touches 100 MiB
        more; those of a stopped one took half the time, and nothing grows meanwhile.
        """
        stopped: list[int] = []
        for one in self._table.processes.values():
            if one.shmem - max(0, one.judged_at - one.anon_then) > SMALL_DOUBT * limit:
                with contextlib.suppress(OSError, ValueError):
                    if procfs.stat(one.pid).state != b"T":  # a stopped one is another's to continue
                        os.kill(one.pid, signal.SIGSTOP)
                        stopped.append(one.pid)
        return stopped

    def read_exact(self, now: float) -> None:
        """Replace the estimate by the kernel's exact sums."""
        began = self._clock()
        if self._shared is not None:
            self._shared.scan_if_changed(self._table.processes, now, must=True)
        anon, shmem = self._sum_exact()
        has_forked = self._has_forked_meanwhile()
        for _ in range(EXACT_RETRIES):
            if has_forked:
                anon, shmem = self._sum_exact()
                has_forked = self._has_forked_meanwhile()
        self.pss = anon + shmem
        self._objects_then = self._shared.total_bytes if self._shared is not None else 0
        self._unmapped = self._unmapped_shared(anon, shmem, self._objects_then)
        self.memory = self.at_most = self.at_least = anon + shmem + self._unmapped
        self.is_judged = self.is_exact = not has_forked
        took = self._clock() - began
        self._exact_at = now + max(0.05, took / EXACT_SHARE)
        self._exact_due_at = now + max(EXACT_EVERY_S, took / EXACT_SHARE)

    def _sum_exact(self) -> tuple[int, int]:
        anon = shmem = 0
        for one in self._table.processes.values():
            try:
                is_borrowed = one.borrows and self._table.borrows_memory(one)
                sums = procfs.Pss(0, 0) if is_borrowed else procfs.pss(one.pid)
                one.faults_then = procfs.stat(one.pid).minor_faults
            except (OSError, ValueError):
                sums = procfs.Pss(one.anon, one.shmem)  # it has ended, or has become another user
            anon += sums.anon_bytes
            shmem += sums.shmem_bytes
            one.pss = sums.anon_bytes + sums.shmem_bytes
            one.judged_at = one.charge
            one.anon_then = one.anon
        return anon, shmem

    def _has_forked_meanwhile(self) -> bool:
        """Whether the largest process's share has shrunk since it was read: a new process shares it."""
        if len(self._table.processes) < 2:
            return False
        largest = max(self._table.processes.values(), key=lambda one: one.pss)
        try:
            return sum(procfs.pss(largest.pid)) < largest.pss - SHARED_STEP_BYTES
        except (OSError, ValueError):
            return False

    def _unmapped_shared(self, anon: int, shmem: int, objects: int) -> int:
        """Return the bytes of shared objects that the tree's mappings do not already contain."""
        if min(shmem, objects) < SHARED_STEP_BYTES:
            return objects
        if self._limit is not None and anon + max(shmem, objects) > self._limit:
            return max(0, objects - shmem)  # exceeded even if all is mapped: read no more
        mapped = 0
        for one in self._table.processes.values():
            if one.shmem:
                try:
                    mapped += procfs.mapped_objects_bytes(one.pid)
                except (OSError, ValueError):
                    continue
        return max(0, objects - mapped)
