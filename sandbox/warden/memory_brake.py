"""A memory limit that an allocation runs into, so that the algorithm gets its own MemoryError, with its line.

The kernel's limit on private writable memory (RLIMIT_DATA) holds for each process alone and counts what is
reserved. So it is moved along, live: the soft limit of each process is what it has reserved now, plus its
part of what the tree has left. One process cannot then overshoot at all; of several that grow at once each
gets a part. What is reserved and never touched is refused too: who needs that uses the mode "rss".

The hard limit is never touched: lowered once, it could not be raised again. The soft limit of the user is
never exceeded.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..usage.process_table import Process
    from ..usage.sampler import TreeSampler

#: Changes smaller than this are not worth a call.
STEP_BYTES = 1 << 20
#: Kept back, a fiftieth of the limit within these bounds: a program that grows in small steps shall run into
#: the brake and get its MemoryError, before it runs into the limit and is killed.
LEAST_MARGIN_BYTES = 1 << 20
MOST_MARGIN_BYTES = 8 << 20
#: What a process that has just been executed may reserve though the tree has less left: an interpreter
#: and numpy's libraries reserve 60 to 120 MiB that they never touch.
START_BYTES = 128 << 20
START_S = 2.0
#: Somebody who reserves this little has just been executed.
FRESH_BYTES = 48 << 20

Prlimit = Callable[..., tuple[int, int]]


class _Braked:
    """One process on the brake."""

    __slots__ = ("floor", "hard", "is_loading", "own", "process", "soft")

    def __init__(self, process: Process, own: int, hard: int) -> None:
        self.process = process
        self.own = own  #: the soft limit it came with, which it gets back
        self.hard = hard
        self.soft = own
        self.floor = 0
        self.is_loading = False


class Brake:
    """Keeps RLIMIT_DATA of all processes of a tree just above what the memory limit leaves them."""

    def __init__(self, memory_bytes: int, *, prlimit: Prlimit = resource.prlimit) -> None:
        self._limit = memory_bytes
        self._margin = max(LEAST_MARGIN_BYTES, min(MOST_MARGIN_BYTES, memory_bytes // 50))
        self._prlimit = prlimit
        self._braked: dict[int, _Braked] = {}
        #: The soft limit that children of a braked process are born with is ours, not the user's.
        self._own: int | None = None
        #: The code is still being imported; its tasks have not begun.
        self.loading = False
        self.refused = 0  #: processes that are not ours to limit (another user by now)

    def adjust(self, sampler: TreeSampler, now: float) -> None:
        """Move all limits to where the last look says they belong. After each look."""
        headroom = sampler.headroom_bytes
        if headroom is None:
            return
        processes = sampler.processes
        part = max(0, headroom - self._margin) // max(1, sampler.growing)
        for pid, process in processes.items():
            one = self._braked.get(pid)
            if one is None or one.process is not process:
                one = self._take(process, now)
                if one is None:
                    continue
            soft = process.data + part
            if one.is_loading and (not self.loading or headroom < self._limit // 2):
                one.is_loading = False
                one.floor -= max(0, START_BYTES - self._limit)
            if one.floor and now - process.first_seen < START_S:
                soft = max(soft, one.floor)
            # A process that was stopped from growing and frees memory gets its room back the same way.
            if abs(soft - one.soft) >= STEP_BYTES:
                self._set(one, soft)
        if len(self._braked) > len(processes):
            for pid in [pid for pid in self._braked if pid not in processes]:
                del self._braked[pid]

    def off(self) -> None:
        """Give every process its own limit back."""
        for one in self._braked.values():
            self._set(one, one.own)
        self._braked.clear()

    def _take(self, process: Process, now: float) -> _Braked | None:
        try:
            own, hard = self._prlimit(process.pid, resource.RLIMIT_DATA)
        except (ProcessLookupError, PermissionError):
            self.refused += 1
            return None
        if self._own is None:
            self._own = own
        one = _Braked(process, self._own, hard)
        one.soft = own
        if process.data < FRESH_BYTES:
            # While the code is loaded also above the limit: numpy reserves as much, and touches little of it.
            one.floor = process.data + (START_BYTES if self.loading else min(START_BYTES, self._limit))
            one.is_loading = self.loading
        self._braked[process.pid] = one
        return one

    def _set(self, one: _Braked, soft: int) -> None:
        for most in (one.own, one.hard):
            if most != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > most):
                soft = most
        if soft == one.soft:
            return
        try:
            self._prlimit(one.process.pid, resource.RLIMIT_DATA, (soft, one.hard))
        except (ProcessLookupError, PermissionError, ValueError):
            return
        one.soft = soft
