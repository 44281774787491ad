"""The brake of the mode "brake": what a process reserves must fit into the limit, used or not."""

from __future__ import annotations

import math
import os
import resource
from typing import TYPE_CHECKING

from ..linux import procfs
from .memory_brake import (
    FILLS,
    GROWTH_BYTES,
    MI,
    MOST_NEAR_BYTES,
    STEP_BYTES,
    WORK_S,
    DataLimit,
    HeldProcess,
    Prlimit,
)
from .own_time import WORK_SHARE, OwnTime, cpu_ns, sleeps
from .repeated_requests import Attempts, Rounds, Tops

if TYPE_CHECKING:
    from ..usage.process_table import Process
    from ..usage.sampler import TreeSampler

#: ReservedBrake keeps a fiftieth of the limit back, within these bounds: a program that grows in small steps
#: is refused memory before it exceeds the limit and is killed.
LEAST_MARGIN_BYTES = 1 * MI
MOST_MARGIN_BYTES = 8 * MI
#: Memory that a process may reserve just after exec, though less is left of the limit: an interpreter and
#: numpy's libraries reserve 60 to 120 MiB that they never touch.
START_BYTES = 128 * MI
START_S = 2.0
#: A process with less reserved memory than this has just been executed.
FRESH_BYTES = 48 * MI
#: A process that has run for this long without growing may be repeating an allocation that was refused, at
#: once (OpenBLAS did so for ever) or after pauses: it may reserve more, and only its memory in use counts.
#: A process that sleeps uses no processor; one that asks once a second uses this much in a second.
SPIN_S = 1.0
SPIN_CPU_NS = 20_000
#: For a moment it may then reserve whatever it asks for. If it takes more than is left, that is what it has
#: repeated, and only its memory in use counts from then on. A process that computes is meant to be refused
#: what does not fit, so the moment is short; for one that mostly waits it lasts until it has run again.
OPEN_S = 0.01


class _Reserving(DataLimit):
    """One process that may reserve no more than what is left of the memory limit."""

    __slots__ = (
        "allowed",
        "block",
        "cpu_ns",
        "data",
        "fills",
        "floor",
        "is_let_through",
        "is_loading",
        "is_open",
        "is_whole_trial",
        "last_data",
        "open_until",
        "own_room",
        "own_time",
        "quiet_since",
        "rounds",
        "rss",
        "took_more_at",
        "tops",
        "worked_ns",
    )

    def __init__(self, process: Process, soft: int, own: int, hard: int) -> None:
        super().__init__(process, soft, own, hard)
        self.floor = 0
        self.is_loading = False
        self.is_let_through = False
        self.data = self.rss = 0
        self.quiet_since = float("-inf")
        self.cpu_ns = 0
        self.is_open = False  #: whether it might reserve whatever it asked for since the last look
        self.open_until = float("-inf")
        self.is_whole_trial = False  #: whether it might do so since this round began
        self.allowed = 0  #: what it might have reserved since then otherwise
        self.took_more_at: float | None = None  #: when it was seen to reserve more than that
        self.tops, self.rounds = Tops(MOST_NEAR_BYTES), Rounds(MOST_NEAR_BYTES)
        self.fills = Attempts(FILLS)
        self.own_time: OwnTime | None = None  #: measured since it was first refused memory
        self.worked_ns = 0  #: CPU time since it has last grown or shrunk
        self.last_data = process.data
        self.block = 0  #: the most that it has reserved between two looks in this round
        self.own_room: float = math.inf  #: it has turned back by itself with so much left

    def is_spinning(self, part: int, now: float) -> bool:
        """Whether it has run for SPIN_S without reserving, using or freeing memory, while little was left.

        `part`: what is left for it. A process that got room at the limit and uses it keeps it: otherwise it
        would repeat each further request for a second.
        """
        process, is_at_limit = self.process, part <= MOST_NEAR_BYTES
        has_grown = process.data > self.data or process.rss > self.rss + GROWTH_BYTES
        # Less than that comes and goes with each attempt.
        has_shrunk = min(process.data - self.data, process.rss - self.rss) < -MOST_NEAR_BYTES
        if has_grown or has_shrunk:
            self.is_let_through = self.is_let_through and is_at_limit and not has_shrunk
            self.data, self.rss, self.worked_ns = process.data, process.rss, 0
            self.quiet_since = self.open_until = float("-inf")
        elif self.open_until == math.inf:
            if cpu_ns(process) - self.cpu_ns >= SPIN_CPU_NS:
                self.quiet_since = self.open_until = float("-inf")
        elif self.quiet_since == float("-inf"):
            self.quiet_since, self.cpu_ns = now, cpu_ns(process)
        elif now - self.quiet_since >= SPIN_S:
            used, quiet_s = cpu_ns(process) - self.cpu_ns, now - self.quiet_since
            if used >= SPIN_CPU_NS * quiet_s:
                self.is_let_through = self.is_let_through or part < START_BYTES
                # One that waits for a processor, too: it may have been about to compute.
                is_busy = used >= WORK_SHARE * quiet_s * 1e9 or not sleeps(process.pid)
                self.open_until = now + OPEN_S if is_busy else math.inf
            self.worked_ns += used
            if self.worked_ns >= WORK_S * 1e9:
                self.fills.forget()
            self.quiet_since, self.cpu_ns = now, self.cpu_ns + used
        return self.is_let_through

    def may_take_more(self, part: int, now: float) -> bool:
        """Whether it may reserve whatever it asks for; `part` is what is left for it.

        That is to find out if it repeats a request for more than is left, and so from when it was seen to.
        """
        data = self.process.data
        if self.own_time is not None:
            self.fills.pass_time(self.own_time.passed_s(now))
        is_trial = self.fills.are_endless(now)
        if self.is_open and self.took_more_at is None and data > self.allowed + STEP_BYTES:
            self.took_more_at = now
        self.block = max(self.block, data - self.last_data)
        left = self.tops.turned_back(data, part)
        if left is not None and left <= MOST_NEAR_BYTES:
            self._turned_back(left, now, is_trial=is_trial)
        left = self.rounds.ended(data, part)
        if left is not None:
            # Another one of those would have been refused, or one of twice the size: buffers double.
            if MOST_NEAR_BYTES < left <= 2 * self.block:
                self._turned_back(left, now, is_trial=is_trial)
            elif left > MOST_NEAR_BYTES:
                self.fills.interrupt()
            self.block = 0
        self.last_data, self.allowed = data, data + part
        is_asked = now < self.open_until or self.fills.are_endless(now)
        self.is_open = is_asked or self.took_more_at is not None
        return self.is_open

    def _turned_back(self, left: int, now: float, *, is_trial: bool) -> None:
        """Note that it has freed memory when so little was left: most likely it was refused more."""
        # A look comes each time that half of what is left may have been used.
        tolerance = MOST_NEAR_BYTES + left // 2
        if is_trial and self.is_whole_trial:  # nothing was refused
            self.own_room, self.is_whole_trial = left, False
            self.fills.forget()
        elif is_trial:  # it may have been refused more before it was let through
            self.is_whole_trial = self.fills.is_like_last(left, tolerance)
            if not self.is_whole_trial:
                self.fills.forget()
        elif left < self.own_room - STEP_BYTES:
            self.fills.add(now, left, tolerance)
            if self.own_time is None:
                self.own_time = OwnTime(self.process, now)

    def forget_attempts(self, before: float) -> None:
        """Begin anew, if it was seen to repeat a request before this time, or may have been."""
        self.fills.forget()
        self.is_whole_trial = False
        if self.took_more_at is not None and self.took_more_at < before:
            self.took_more_at = None


class ReservedBrake:
    """Keeps RLIMIT_DATA of all processes of a tree just above what the memory limit leaves them."""

    def __init__(
        self, memory_bytes: int, *, is_loading: bool = False, prlimit: Prlimit = resource.prlimit
    ) -> None:
        self._limit = memory_bytes
        self._margin = max(LEAST_MARGIN_BYTES, min(MOST_MARGIN_BYTES, memory_bytes // 50))
        self._prlimit = prlimit
        self._limits: dict[int, _Reserving] = {}
        #: The user's soft limit, of this process: that of a process of the tree may have been set here, or by
        #: the child itself before the first look (memory_reserve.lower_brake).
        self._own: int | None = None
        #: Whether the code is still being imported.
        self.is_loading = is_loading
        #: Whether no task runs: a process that waits for one repeats nothing.
        self.is_idle = False
        #: The process last limited near the memory limit; None: none since forget_held_back().
        self.held_back: HeldProcess | None = None
        self.is_holding = False  #: whether hardly anything is left to reserve now

    def adjust(self, sampler: TreeSampler, now: float) -> None:
        """Set all limits according to the last measurement; called after each."""
        headroom = sampler.headroom_bytes
        if headroom is None:
            return
        processes = sampler.processes
        part = self._part(sampler, headroom)
        self.is_holding = part <= MOST_NEAR_BYTES
        for pid, process in processes.items():
            if not process.data:  # it is ending, and holds no memory any more
                continue
            one = self._limits.get(pid)
            if one is None or one.process is not process:
                one = self._adopt(process)
                if one is None:
                    continue
            soft = process.data + part
            if one.is_loading and (not self.is_loading or headroom < self._limit // 2):
                one.is_loading = False
                one.floor -= max(0, START_BYTES - self._limit)
            if one.floor and now - process.first_seen < START_S:
                soft = max(soft, one.floor)
            if one.is_spinning(part, now) and part < START_BYTES:
                soft = max(soft, process.data + START_BYTES)
            if self.is_idle:
                one.open_until = float("-inf")
            if one.may_take_more(part, now):
                soft = one.own
                if now < one.open_until:
                    sampler.next_at = min(sampler.next_at, one.open_until)
            # Memory that a process frees may be reserved again in the same way.
            if abs(soft - one.soft) >= STEP_BYTES:
                one.set(soft, self._prlimit)
            if self.is_holding:
                self.held_back = HeldProcess(pid, procfs.name(pid), part, sampler.least_bytes, now)
        if len(self._limits) > len(processes):
            for pid in [pid for pid in self._limits if pid not in processes]:
                del self._limits[pid]

    def _part(self, sampler: TreeSampler, headroom: int) -> int:
        """Return how much more each process may reserve."""
        return max(0, headroom - self._margin) // max(1, sampler.growing)

    def note_freed(self, sampler: TreeSampler) -> None:
        """Note by the last measurement whether the tree has freed memory, without setting a limit."""
        headroom = sampler.headroom_bytes
        if headroom is not None:
            self.is_holding = self.is_holding and self._part(sampler, headroom) <= MOST_NEAR_BYTES

    def forget_held_back(self, before: float) -> None:
        """Set `held_back` to None if it is older: a task is not blamed for what was before it began."""
        for one in self._limits.values():
            one.forget_attempts(before)
        if self.held_back is not None and self.held_back.at < before:
            self.held_back = None

    def _adopt(self, process: Process) -> _Reserving | None:
        try:
            if self._own is None:
                self._own, _ = self._prlimit(os.getpid(), resource.RLIMIT_DATA)
            soft, hard = self._prlimit(process.pid, resource.RLIMIT_DATA)
        except (ProcessLookupError, PermissionError):  # it has ended, or has become another user
            return None
        one = _Reserving(process, soft, self._own, hard)
        if process.data < FRESH_BYTES:
            # While the code is loaded even above the limit: numpy reserves so much, and touches little of it.
            one.floor = process.data + (START_BYTES if self.is_loading else min(START_BYTES, self._limit))
            one.is_loading = self.is_loading
        self._limits[process.pid] = one
        return one
