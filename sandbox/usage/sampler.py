"""Measures the usage of a process tree as often as its limits require, and no more often.

The next measurement (a "look") comes after headroom / (the highest rate at which memory can be touched), but
not sooner than a third of a millisecond and not later than a tenth of a second. So a look must be cheap.

This file decides when to look, and in which order to read. process_table.py keeps the processes with the
quick counters of each; memory_estimate.py computes what they hold together.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ..linux import procfs
from ..shared.limits import Limits
from .memory_estimate import NEW_S, MemoryEstimate
from .process_table import Process, ProcessTable
from .shared_memory import SharedMemory
from .usage import ProcessUse, Usage

#: Highest rate at which a tree can touch memory. Measured: 1.2 to 4.7 GB/s for one process.
RATE_ONE = 8e9
RATE_MANY = 16e9
#: write() to memory that no process maps is slower: 1.7 to 2.4 GB/s.
SHARED_RATE = 4e9
#: Shortest and longest interval between two looks.
SOONEST_S = 0.0003
LATEST_S = 0.1
#: Longest interval without a memory limit: a process that lives for 20 ms must be seen.
MEASURING_S = 0.01
#: The same for a single process that shares no memory: the kernel keeps its peak, and only forks are counted
#: more often, which takes a tenth of the time of a look.
ALONE_S = 0.05
#: Forks are counted only each ALONE_S, too, once no process and no task has begun for this long: the count
#: alone would wake the warden 100 times a second for hours. A process that is missed then lives for less than
#: ALONE_S and is never waited for: of those that are, the peak is known after their end.
STARTING_S = 1.0
#: Largest share of a core for walks through the tree without a memory limit.
MEASURING_WALK_SHARE = 0.02
#: Usage is kept for a third of a second, in steps: a task's peak is restarted a little after its beginning.
RECENT_STEP_S = 0.005
RECENT = 64
#: Highest number of forks a second by a fork bomb; 9,000 were measured.
BIRTH_RATE = 10_000.0
#: With a limit on processes: least time between counts of forks (can_wait() reads one short file), and the
#: share of a core for walks while the new processes may have reached the limit.
SOONEST_COUNT_S = 0.005
COUNT_SHARE = 0.05
#: This many new processes at once may be the beginning of a fork bomb.
BURST = 4

#: Largest share of a core for walks while far from any limit.
WALK_SHARE = 0.005
CPU_EVERY_S = 0.05


class TreeSampler:
    """The usage of all processes below `root_pid`, which itself does not count. Linux; one thread.

    The root is a subreaper without other children (the warden), so that no process can leave the tree.
    """

    def __init__(
        self,
        root_pid: int,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        shared: SharedMemory | None = None,
        full_walk: Callable[[], Iterable[int]] | None = None,
        kept_fds: int | None = None,
    ) -> None:
        """Open the files that each look reads.

        `full_walk` lists the tree in another way than the kernel's lists of children, once a second; the
        default reads the parent of every process on the machine. `kept_fds`: most descriptors kept open.
        """
        self.next_at = 0.0
        self._look_at = 0.0
        self._limits = limits
        self._limit = limits.memory_bytes if limits.enforced else None
        self._pids = limits.pids if limits.enforced else None
        self._shared = shared
        self._table = ProcessTable(root_pid, clock=clock, full_walk=full_walk, kept_fds=kept_fds)
        self._memory = MemoryEstimate(self._table, self._limit, shared=shared, clock=clock)
        self._cpu_s = 0.0
        self._cpu_at = 0.0
        #: Whether the last look was cut short, because there are or may soon be too many processes.
        self.is_hurried = False
        #: Whether the caller has stopped the tree, and will continue it.
        self.is_frozen = False
        self._shared_at = 0.0
        self._peak = 0
        #: What a limit must leave, if that is more than the peak: what was reserved, where that counts; else
        #: the peak if all processes had theirs at one time, as they will in another run.
        self.needed_bytes = 0
        self._task_began_at = 0.0
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self._quiet = 0
        self._usage: Usage | None = None

    def set_root(self, pid: int) -> None:
        """Measure the processes below this one from now on."""
        self._table.set_root(pid)

    # --- what the warden asks ---

    @property
    def processes(self) -> dict[int, Process]:
        """The processes of the tree by pid, as of the last look or walk."""
        return self._table.processes

    @property
    def growing(self) -> int:
        """Number of processes that grew between the last two looks."""
        return self._table.growing

    @property
    def files_peak_bytes(self) -> int:
        """The most that one process had mapped and no limit counts: files, and the same memory again."""
        return self._table.files_peak_bytes

    @property
    def usage(self) -> Usage:
        """The usage as of the last look."""
        if self._usage is None:
            self._usage = Usage(
                rss_bytes=self._table.rss,
                pss_bytes=self._memory.pss,
                shared_bytes=self._shared.total_bytes if self._shared is not None else 0,
                processes=max(len(self.processes), self._table.counted),
                threads=sum(one.threads for one in self.processes.values()),
                cpu_s=self._cpu_s,
                memory_bytes=self._memory.memory,
                is_judged=self._memory.is_judged,
            )
        return self._usage

    @property
    def least_bytes(self) -> int:
        """Lower bound of the tree's memory: no page of it is counted twice."""
        return self._memory.at_least

    @property
    def peak_bytes(self) -> int:
        """The most memory so far, without what may have been counted twice."""
        return self._peak

    def restart_peak(self, began_at: float) -> None:
        """Forget the peak of the time before `began_at`, if that is recent; else all of it."""
        self._peak = max((memory for at, memory in self._recent if at >= began_at), default=0)
        self._task_began_at = began_at
        self._table.forget_peaks()
        self.needed_bytes = 0

    @property
    def headroom_bytes(self) -> int | None:
        """What is left of the memory limit; None without a limit."""
        return None if self._limit is None else self._limit - self._memory.at_most

    def pids(self) -> list[int]:
        """Return the pids of the tree, as of the last look or walk."""
        return list(self.processes)

    def look(self, now: float) -> float:
        """Measure the tree, which updates `usage`; return when to look next."""
        table, memory = self._table, self._memory
        self._usage = None
        memory.is_judged = False
        if self._is_walk_due(now):
            table.walk(self._pids)
            if self._has_too_many:
                # They leave little CPU to the warden: read nothing more before they are stopped.
                self.is_hurried = True
                self.next_at = self._look_at = now + SOONEST_S
                return self.next_at
        table.read()
        self.is_hurried = False
        if self._pids is not None and table.newborn >= BURST:
            # There may be too many in a moment: what takes long is left until after the next count.
            table.newborn = 0
            memory.estimate()
            if self._limit is None or memory.at_most <= self._limit:
                table.walk_due = self.is_hurried = True
                self.next_at = self._look_at = now + SOONEST_S
                return self.next_at
        table.full_check(now)
        is_shared_seen = False
        if self._shared is not None and now >= self._shared_at:
            if self._shared.poll_new_files():
                table.walk_if_born()  # a new file may be a new process's
            self._shared.scan_if_changed(self.processes, now)
            is_shared_seen = True
        if len(self.processes) > 1:
            memory.read_new(now)
        memory.estimate()
        if self._limit is not None and memory.at_most > self._limit:
            memory.judge(now, self._limit, is_frozen=self.is_frozen)
        elif memory.is_exact_reading_due(now, count_first=self._pids is not None, peak=self._peak):
            memory.read_exact(now)
        known = memory.memory if memory.is_exact or memory.is_judged else memory.at_least
        self._note_peak(now, known)
        if self._limits.mem_mode == "brake":
            reserved = [one.data for one in self.processes.values()]
            # Processes that grow get an equal part each, and whoever starts another may grow then: one that
            # reserves all it needs at once needs the limit to leave as much for the others.
            if len(reserved) > 1:
                reserved.append(max(reserved))
            self.needed_bytes = max(self.needed_bytes, sum(reserved))
        elif self._limit is None and len(self.processes) > 1:
            self.needed_bytes = max(self.needed_bytes, known + table.freed_by_workers(now - NEW_S))
        if now - self._cpu_at >= CPU_EVERY_S:
            self._cpu_at = now
            self._cpu_s = self.cpu_ns() / 1e9
        if is_shared_seen:
            self._shared_at = now + min(LATEST_S, self._time_to_limit(SHARED_RATE)) - SOONEST_S
        self._look_at = now + self._pause()
        self.next_at = min(self._look_at, now + self._pause_of_births(now))
        return self.next_at

    def _note_peak(self, now: float, memory: int) -> None:
        self._peak = max(self._peak, memory)
        if not self._recent or now - self._recent[-1][0] >= RECENT_STEP_S:
            self._recent.append((now, memory))
        elif memory > self._recent[-1][1]:
            self._recent[-1] = (self._recent[-1][0], memory)

    def can_wait(self, now: float) -> bool:
        """Return whether the look that is due can wait: memory need not be measured yet, and too few
        processes were forked to exceed the limit on them, or to be measured."""
        counts = self._pids is not None or self._limit is None
        if self._table.walk_due or not counts or now >= self._look_at - SOONEST_S:
            return False
        births = self._table.births()
        if births and self._limit is None and self._pids is None and self._is_walk_due(now):
            # On a busy machine they are mostly others: then the tree is not measured 100 times a second.
            self._table.walk(None)
            if self._table.newborn:
                return False
        elif births and self._limit is None and self._pids is not None:
            return False
        if self._pids is not None and len(self.processes) + births > self._pids:
            return False
        self.next_at = min(self._look_at, now + self._pause_of_births(now, births))
        return True

    def walk(self) -> None:
        """Update the list of processes now."""
        self._table.walk(None)

    def walk_if_born(self) -> bool:
        """Walk if any process may have been forked since the last walk; return whether that was so."""
        return self._table.walk_if_born()

    @property
    def _has_too_many(self) -> bool:
        return self._pids is not None and self._table.counted > self._pids

    def cpu_ns(self) -> int:
        """Return the CPU time of the tree up to now, ended processes included; it never falls."""
        return self._table.cpu_ns()

    def reaped(self, pid: int, usage: Any) -> None:
        """Add the rusage of a process that the warden has waited for."""
        self._table.reaped(pid, usage)
        self._usage = None

    def top(self, count: int = 5) -> list[ProcessUse]:
        """Return the largest processes, largest first."""
        held = [(one.held, one.pid) for one in self.processes.values()]
        return [ProcessUse(pid, procfs.name(pid), size) for size, pid in sorted(held, reverse=True)[:count]]

    def close(self) -> None:
        """Close all descriptors."""
        self._table.close()

    def _is_walk_due(self, now: float) -> bool:
        table = self._table
        if table.walk_due:
            return True
        births = table.births()
        if not births:
            return False
        # Far from the limit, forks elsewhere on a busy machine must not cause a walk at every look.
        share = WALK_SHARE if self._limit is not None else MEASURING_WALK_SHARE
        wait_s = min(table.walk_cost / share, self._time_to_limit())
        if self._pids is not None and len(self.processes) + births > self._pids:
            wait_s = min(wait_s, table.walk_cost / COUNT_SHARE)
        return now - table.walked_at >= wait_s

    # --- when to look next ---

    def _time_to_limit(self, rate: float = RATE_ONE) -> float:
        if self._limit is None:
            return MEASURING_S
        return max(0.0, (self._limit - self._memory.at_most) / (RATE_MANY if self.growing > 1 else rate))

    def _pause_of_births(self, now: float, births: int = 0) -> float:
        """Return the shortest time in which there could be too many processes, or a new one to measure."""
        if self._limit is not None:
            most_s = LATEST_S
        elif now - max(self._table.grew_at, self._task_began_at) < STARTING_S:
            most_s = MEASURING_S
        else:
            most_s = ALONE_S
        if self._pids is None:
            return most_s
        return min(most_s, max(SOONEST_COUNT_S, (self._pids - len(self.processes) - births) / BIRTH_RATE))

    def _pause(self) -> float:
        is_shared = self._shared is not None and self._shared.is_used
        if self._limit is None and len(self.processes) == 1 and not is_shared:
            return ALONE_S
        pause = min(LATEST_S, self._time_to_limit())
        # Near the limit, each look without growth makes the pause longer, up to four times. Further away, up
        # to twice, and only where the brake limits what a process can reserve meanwhile.
        self._quiet = 0 if self.growing else min(self._quiet + 1, 60)
        if pause < 0.005:
            pause *= 1 + self._quiet / 20
        elif self._limits.mem_mode == "brake":
            pause = min(LATEST_S, pause * (1 + self._quiet / 60))
        return max(SOONEST_S, pause)
