"""The memory of a process tree: an estimate at each look, and the kernel's exact sums when they decide.

The sum of RSS counts shared pages several times (a pool of five that shares 150 MiB is not 750 MiB), and also
clean pages of files, which the kernel can drop at will. So the sum of RSS without file pages is only a
*trigger*: at 90 % of the limit the kernel's exact sums are read (PSS in smaps_rollup, which divides each
shared page among its processes). Without them a limit counts as exceeded only if private memory alone
exceeds it. Between two readings the estimate is the last PSS, plus the growth of RSS, plus the pages that
copy-on-write may have doubled without growth of RSS, of which there are at most as many as minor faults.

The estimate is not exact, and so no peak, while a page may be counted twice: processes were forked since the
reading, or freed pages that others may still have, or map shared memory that has grown. Then only its lower
bound counts as a peak, and the exact sums are read again.

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
from .process_table import GROWING_BYTES, SHARED_STEP_BYTES, Process, ProcessTable
from .shared_memory import SharedMemory

#: Share of the limit from which the exact sums are read.
TRIGGER = 0.9
#: Share of the limit above which a single process exceeds it without the exact sums.
CERTAIN = 1.1
#: Error of the kernel's counters, as a share of the limit, up to which to look again instead.
SMALL_DOUBT = 0.02
#: Interval between readings of the exact sums of several processes, for the figures shown.
EXACT_EVERY_S = 1.0
#: Age from which a new process has most likely executed its own program and shares no more memory, and the
#: largest part of its memory that it may share nevertheless.
NEW_S = 0.02
SHARED_PART = 0.05
#: Most repetitions of a reading during which a process has forked, has ended or has freed memory.
EXACT_RETRIES = 2
#: Largest share of a core for readings that only refresh the figures, and for those that decide on a peak.
EXACT_SHARE = 0.003
PEAK_SHARE = 0.01


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
        self.is_exact = True  #: whether no page can be counted twice in `memory`
        self.pss: int | None = None  #: the last exact sums
        self.is_judged = False  #: whether `memory` is from the exact sums, or certain without them
        self._table = table
        self._limit = limit
        self._shared = shared
        self._clock = clock
        self._certain = 0  # lower bound of private memory
        self._exact_at = self._peak_at = 0.0
        self._exact_due_at = 0.0
        self._new_at = 0.0
        self._unmapped = 0  # shared memory beyond what mappings show, when the exact sums were read
        self._objects_then = 0

    def estimate(self) -> None:
        """Update the estimate and its bounds from the quick counters, without the exact sums."""
        memory = hidden = largest = largest_anon = unknown = certain = private = unsure = mapped = 0
        processes = self._table.processes.values()
        is_alone = len(processes) == 1
        for one in processes:
            charge = one.anon + one.shmem
            mapped += max(0, one.shmem - one.shmem_then)
            if charge > largest:
                largest, largest_anon = charge, one.anon
            private += max(0, one.pss_anon + one.anon - one.anon_then) if one.pss_anon else 0
            if one.pss < 0:
                memory += charge
                unknown += 1
                continue
            shared = max(0, one.judged_at - one.pss)
            hidden += shared
            if charge >= one.judged_at:
                memory += one.pss + charge - one.judged_at
            else:
                # A page that is shared counts half at most: no more than twice what is hidden was shared.
                # What was freed beyond that was private; the rest may be memory of others now.
                kept = min(one.judged_at - charge, 2 * shared)
                memory += max(0, one.pss - (one.judged_at - charge - kept))
                unsure += kept
            certain += max(0, one.pss + one.anon - one.anon_then + min(0, one.shmem - one.shmem_then))
        at_most = self._table.charge
        objects_now = objects_at_most = freed = unmapped = twice = 0
        if self._shared is not None:
            objects_now = self._shared.total_bytes
            objects_at_most = self._shared.at_most_bytes
            grown = max(0, objects_now - self._objects_then)
            unmapped = min(self._unmapped + grown, objects_now)
            twice = min(unmapped, grown, mapped)  # what has grown may be what was mapped
            freed = self._shared.freed_bytes
            unsure += freed
        if not is_alone:
            unsure += mapped  # by several of them, perhaps
        elif objects_now >= SHARED_STEP_BYTES:
            unsure += max(0, mapped - twice)  # several times by the same one, perhaps
        self.is_exact = (unknown == 0 or is_alone) and max(unsure, twice) < SHARED_STEP_BYTES
        # The private pages of the only process are shared with no other.
        self._certain = max(certain, largest_anon if is_alone else 0)
        upper = max(memory, largest) + unmapped
        self.memory = upper - twice
        if is_alone:
            self.at_least = max(certain, self.memory - unsure)
        else:
            self.at_least = max(certain, max(private, largest_anon) + objects_now - freed)
        at_most += objects_at_most
        if self._limit is not None and at_most >= TRIGGER * self._limit:
            # Copy-on-write makes a shared page private without a change of RSS, at one fault each.
            if hidden > GROWING_BYTES:
                hidden = min(hidden, self._faults_since_exact() * procfs.PAGE)
            at_most = min(at_most, upper + hidden + objects_at_most - objects_now)
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
        """Whether to read the exact sums although the limit cannot be exceeded yet."""
        near = self._limit is not None and self.at_most >= TRIGGER * self._limit
        if now < (self._exact_at if near else self._peak_at):
            return False
        if count_first and self._table.births():
            return False
        if now >= self._exact_due_at and len(self._table.processes) > 1:
            return True
        if self.is_exact:
            return False
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

    def read_new(self, now: float) -> None:
        """Read the sums of processes that were started since the last exact reading and share no memory.

        Of a tree of many processes, all the sums can be read only every few seconds.
        """
        is_near = self._limit is not None and self.at_most >= TRIGGER * self._limit
        if now < self._new_at or is_near:
            return
        began = self._clock()
        for one in self._table.processes.values():
            is_new = one.pss < 0 and not one.borrows and now - one.first_seen >= NEW_S
            if is_new and abs(one.charge - one.asked_at) >= SHARED_STEP_BYTES:
                one.asked_at = one.charge
                sums = self._read_one(one)
                if sums.anon_bytes >= one.anon - max(SHARED_STEP_BYTES, SHARED_PART * one.anon):
                    self._note(one, sums)
                    if one.shmem >= SHARED_STEP_BYTES:
                        one.pss = -1  # the shares of others in that memory have changed
        self._new_at = now + (self._clock() - began) / PEAK_SHARE

    def read_exact(self, now: float) -> None:
        """Replace the estimate by the kernel's exact sums."""
        began = self._clock()
        if self._shared is not None:
            self._shared.scan_if_changed(self._table.processes, now, must=True)
        anon, shmem, is_whole = self._sum_exact()
        for _ in range(EXACT_RETRIES):
            if not is_whole:
                self._table.read()
                anon, shmem, is_whole = self._sum_exact()
        self.pss = anon + shmem
        self._objects_then = self._shared.total_bytes if self._shared is not None else 0
        self._unmapped = self._unmapped_shared(anon, shmem, self._objects_then)
        self.memory = self.at_most = self.at_least = anon + shmem + self._unmapped
        self.is_judged = self.is_exact = is_whole
        if is_whole and len(self._table.processes) == 1:
            self._table.note_uncounted()
        took = self._clock() - began
        self._exact_at = now + max(0.05, took / EXACT_SHARE)  # near the limit, a look is worth more
        self._peak_at = now + max(0.05, took / PEAK_SHARE)
        self._exact_due_at = now + max(EXACT_EVERY_S, took / EXACT_SHARE)

    def _sum_exact(self) -> tuple[int, int, bool]:
        """Return the sums of private and of shared memory, and whether both are of one moment."""
        anon = shmem = 0
        for one in self._table.processes.values():
            sums = self._read_one(one)
            anon += sums.anon_bytes
            shmem += sums.shmem_bytes
            self._note(one, sums)
        return anon, shmem, not (self._has_forked_meanwhile() or self._table.has_shrunk())

    @staticmethod
    def _note(one: Process, sums: procfs.Pss) -> None:
        one.pss_anon = sums.anon_bytes
        one.pss = sums.anon_bytes + sums.shmem_bytes
        # It may have grown since the counters were read, which the sums then show already.
        one.judged_at = max(one.charge, one.pss)
        one.anon_then = max(one.anon, sums.anon_bytes)
        one.shmem_then = max(one.shmem, sums.shmem_bytes)

    def _read_one(self, one: Process) -> procfs.Pss:
        try:
            one.faults_then = procfs.stat(one.pid).minor_faults
            is_borrowed = one.borrows and self._table.borrows_memory(one)
            return procfs.Pss(0, 0) if is_borrowed else procfs.pss(one.pid)
        except (FileNotFoundError, ProcessLookupError):  # it has ended: what it shared is the others' now
            return procfs.Pss(0, 0)
        except (OSError, ValueError):  # it has become another user
            return procfs.Pss(one.anon, one.shmem)

    def _has_forked_meanwhile(self) -> bool:
        """Whether the share of the largest process has shrunk since it was read: a new process shares it."""
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
