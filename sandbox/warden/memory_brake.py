"""RLIMIT_DATA, adjusted to what a tree uses, so that an allocation beyond the limit raises MemoryError in it.

RLIMIT_DATA limits the private writable memory of one process. It counts memory that is reserved, used or not:
a thread's stack of 8 MiB of which 20 KiB are used, the buffers of OpenBLAS, the arenas of an allocator. So it
only assists: memory in use decides whether a tree is killed. Two ways to set it:

* NearLimitBrake, the mode "auto": only for the algorithm's own process, only while the tree is within a few
  MiB of its memory limit and that process still grows. Then a list that grows gets Python's own MemoryError
  with its line, and its process goes on. At any other time, and in all other processes, only memory in use
  counts: it cannot be known of an allocation, however large, whether it will be filled (sparse arrays, a file
  of 20 GiB mapped copy-on-write), and the kernel would not report that it has refused one.
* ReservedBrake, the mode "brake" (reserved_brake.py): for every process, at all times: what it reserves must
  fit into the limit.

The hard limit is never changed: once lowered, it could not be raised again. The soft limit is never raised
above the one that the user has set.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..linux import procfs
from .own_time import OwnTime, cpu_ns
from .repeated_requests import Attempts, Rounds

if TYPE_CHECKING:
    from ..usage.process_table import Process
    from ..usage.sampler import TreeSampler

#: Smallest change of the limit that is worth a system call.
STEP_BYTES = 1 << 20
MI = 1 << 20

#: NearLimitBrake is armed in the last 1/16 of the limit, within these bounds. The suggested limit leaves a
#: fifth or 16 MiB, so that it never arms there; and a process grows by 2 MiB a millisecond at most in steps
#: small enough to be refused in between.
NEAR_SHARE = 1 / 16
LEAST_NEAR_BYTES = 3 * MI
MOST_NEAR_BYTES = 12 * MI
#: It is disarmed when the process has not grown for this long.
QUIET_S = 0.25
#: It is disarmed, too, when the process has taken and freed memory for this long without getting further: it
#: may be repeating for ever what is refused. Memory in use decides then, until more of the limit is free.
REPEATING_S = 1.5
#: The same if it was armed so many times with pauses of QUIET_S in between, or if the process has filled its
#: memory so many times, each time from where it had left the limit, or fewer times in a row (Attempts).
TRIES = 4
TRIES_IN_A_ROW = 2
FILLS = 16
#: A process does something else in between if it computes for so long without growing, or if it takes and
#: frees so much of the limit without reaching it. To search a GiB of small objects for garbage takes less.
WORK_S = 1.25
WORK_BYTES_SHARE = 1 / 32
#: A process has left the limit when so much of it, or twice what arms the brake, is free: a loop that drops
#: its last part at each refusal, and fills it again, frees less.
FREED_SHARE = 1 / 8
#: A process that has freed so much near the limit has turned back.
TURN_BYTES = 1 * MI
#: A limit that the process itself has raised, for a thread or for its answer to a MemoryError
#: (memory_reserve.py), is left for this long: the thread's first allocations come after its start.
RAISED_S = 0.25
#: Least growth between two readings of a process that counts as growing.
GROWTH_BYTES = 128 * 1024
#: For this long after it is disarmed, and as long as the process is near the limit, the user's limit is set
#: again and again: the process may set a limit that it has read before (memory_reserve.py), much later where
#: it was stopped in between. It would be refused memory for ever.
SETTLE_S = 1.0

#: Largest value of a resource limit; the next one is RLIM_INFINITY.
RLIMIT_MAX = 2**63 - 1

Prlimit = Callable[..., tuple[int, int]]


class HeldProcess(NamedTuple):
    """A process whose limit was set close to the memory that it has reserved, as of one measurement."""

    pid: int
    name: str
    room_bytes: int  #: how much more it could reserve
    memory_bytes: int  #: of the whole tree
    at: float


class DataLimit:
    """The soft RLIMIT_DATA of one process."""

    __slots__ = ("hard", "own", "process", "soft")

    def __init__(self, process: Process, soft: int, own: int, hard: int) -> None:
        self.process = process
        self.soft = soft
        self.own = own  #: the user's soft limit, restored afterwards
        self.hard = hard

    def set(self, soft: int, prlimit: Prlimit, *, again: bool = False) -> None:
        """Set the soft limit, never above the user's own or the hard one; `again`: though it was set so."""
        if soft > RLIMIT_MAX:
            soft = resource.RLIM_INFINITY
        for most in (self.own, self.hard):
            if most != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > most):
                soft = most
        if soft == self.soft and not again:
            return
        try:
            prlimit(self.process.pid, resource.RLIMIT_DATA, (soft, self.hard))
        except (ProcessLookupError, PermissionError, ValueError):
            return
        self.soft = soft

    def is_raised(self, prlimit: Prlimit) -> bool:
        """Whether the process has raised the soft limit since this was called last."""
        try:
            soft, _ = prlimit(self.process.pid, resource.RLIMIT_DATA)
        except (ProcessLookupError, PermissionError):
            return False
        known, self.soft = self.soft, soft
        return known != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > known)


class NearLimitBrake:
    """Refuses memory to the algorithm's own process while it grows within the last few MiB of the limit."""

    def __init__(self, memory_bytes: int, pid: int, *, prlimit: Prlimit = resource.prlimit) -> None:
        self._limit = memory_bytes
        self._pid = pid
        self._prlimit = prlimit
        self._near = max(LEAST_NEAR_BYTES, min(MOST_NEAR_BYTES, int(memory_bytes * NEAR_SHARE)))
        self._margin = self._near // 2
        self._left_bytes = max(2 * self._near, int(memory_bytes * FREED_SHARE))
        self._data_limit: DataLimit | None = None
        self._level = 0
        self._grew_at = float("-inf")
        #: The most memory of the process since it last got further, and when that was reached.
        self._top = 0
        self._top_at = float("-inf")
        self._has_turned = False
        self._tries, self._fills = Attempts(TRIES, TRIES_IN_A_ROW), Attempts(FILLS)
        self._own_time: OwnTime | None = None  #: measured since it was first armed
        self._has_paused = self._has_left = True  #: since it was last near the limit
        self._rounds = Rounds(max(TURN_BYTES, int(memory_bytes * WORK_BYTES_SHARE)))
        #: Its memory and its CPU time since when it pauses.
        self._pause: tuple[int, int] | None = None
        self._is_let_through = False
        #: The process and its memory when last armed; None: not armed since forget_held_back().
        self.held_back: HeldProcess | None = None
        self.is_holding = False  #: whether it is armed now
        self._armed_at = float("-inf")
        self._raised_at = float("-inf")
        self._free: dict[int, Process] = {}

    def adjust(self, sampler: TreeSampler, now: float) -> None:
        """Set the limit according to the last measurement; called after each."""
        if self._armed_at > float("-inf") and len(sampler.processes) > 1:
            self._free_others(sampler)
        process = sampler.processes.get(self._pid)
        if process is None:
            return
        one = self._data_limit
        if one is None or one.process is not process:
            try:
                own, hard = self._prlimit(self._pid, resource.RLIMIT_DATA)
            except (ProcessLookupError, PermissionError):
                return
            one = self._data_limit = DataLimit(process, own, own if one is None else one.own, hard)
            self._own_time = None
        if process.anon >= self._level + GROWTH_BYTES:
            self._level, self._grew_at = process.anon, now
        elif process.anon < self._level:
            self._level = process.anon
        memory = sampler.least_bytes
        free = self._limit - memory
        is_growing = now - self._grew_at < QUIET_S
        if self._own_time is not None:
            own_s = self._own_time.passed_s(now)
            self._tries.pass_time(own_s)
            self._fills.pass_time(own_s)
        self._note_other_work(process, free, is_growing=is_growing)
        is_repeating = self._is_repeating(process.anon, free, now, is_growing=is_growing)
        self.is_holding = free <= self._near and is_growing and not is_repeating
        if self.is_holding:
            room = max(0, free - self._margin)
            self.held_back = HeldProcess(self._pid, procfs.name(self._pid), room, memory, now)
            self._armed_at = now
            if self._own_time is None:
                self._own_time = OwnTime(process, now)
            if one.is_raised(self._prlimit):
                self._raised_at = now
            if now - self._raised_at >= RAISED_S:
                one.set(process.data + room, self._prlimit)
        else:
            self._raised_at = float("-inf")
            is_near = self._armed_at > float("-inf") and free <= self._left_bytes
            one.set(one.own, self._prlimit, again=is_near or now - self._armed_at < SETTLE_S)

    def _note_other_work(self, process: Process, free: int, *, is_growing: bool) -> None:
        """Note if the process has done something else than to fill its memory again."""
        left = self._rounds.ended(process.anon, free)
        if left is not None and left > self._near:
            self._fills.interrupt()
        if is_growing:
            if self._pause is not None and cpu_ns(process) - self._pause[1] >= WORK_S * 1e9:
                self._fills.forget()
            self._pause = None
        elif self._pause is None or process.anon < self._pause[0]:
            # To free a GiB takes a second: that is no other work.
            self._pause = (process.anon, cpu_ns(process))

    def _is_repeating(self, anon: int, free: int, now: float, *, is_growing: bool) -> bool:
        """Whether the process most likely repeats for ever what is refused: see REPEATING_S, TRIES and FILLS.

        A loop that is refused memory comes a little further at each of its first attempts, so its top says
        nothing once it has turned back; a process that only grows is held back all the time.
        """
        has_left = free > self._left_bytes
        self._has_turned = self._has_turned or anon < self._top - TURN_BYTES
        if not is_growing:
            self._has_paused = True
        if has_left:
            self._tries.forget()
            self._has_left, self._is_let_through = True, False
            self._top, self._top_at, self._has_turned = anon, now, False
        elif not is_growing:
            self._top_at = now
        elif anon >= self._top + GROWTH_BYTES and not self._has_turned:
            self._tries.forget()
            self._top, self._top_at = anon, now
        elif self._armed_at >= self._top_at and now - self._top_at >= REPEATING_S:
            self._is_let_through = True
        if free <= self._near and is_growing:
            for attempts, is_new in ((self._tries, self._has_paused), (self._fills, self._has_left)):
                if is_new:
                    self._is_let_through = self._is_let_through or attempts.are_endless(now)
                    attempts.add(now)
            self._has_paused = self._has_left = False
        return self._is_let_through

    def note_freed(self, sampler: TreeSampler) -> None:
        """Note by the last measurement whether the tree has freed memory, without setting a limit."""
        self.is_holding = self.is_holding and self._limit - sampler.least_bytes <= self._near

    def _free_others(self, sampler: TreeSampler) -> None:
        """Restore the user's limit in processes that have inherited this one's lowered limit."""
        one = self._data_limit
        if one is None:
            return
        for pid, process in sampler.processes.items():
            if pid != self._pid and self._free.get(pid) is not process:
                self._free[pid] = process
                # Read: this one's may be the user's again, and have been lower when it forked.
                try:
                    soft, hard = self._prlimit(pid, resource.RLIMIT_DATA)
                except (ProcessLookupError, PermissionError):
                    continue
                if hard == one.hard:  # else the user's code has set it
                    DataLimit(process, soft, one.own, hard).set(one.own, self._prlimit)
        if len(self._free) > 2 * len(sampler.processes):
            self._free = {pid: self._free[pid] for pid in self._free if pid in sampler.processes}

    def forget_held_back(self, before: float) -> None:
        """Set `held_back` to None if it is older: a task is not blamed for what was before it began."""
        self._tries.forget()
        self._fills.forget()
        if self.held_back is not None and self.held_back.at < before:
            self.held_back = None
