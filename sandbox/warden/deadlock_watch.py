"""Ends a child that waits for ever after it was refused memory: nothing else would end it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection

from .memory_brake import HeldProcess

#: Interval between readings of what the threads wait for.
WAITS_EACH_S = 0.5
#: The time after a refusal in which its process is watched, and how long a wait for a lock that no thread can
#: release must last to be taken for a deadlock.
WAITS_AFTER_S = 10.0
DEADLOCK_S = 1.0
#: The same for a whole tree, which is watched without end once a thread has ended for want of memory.
STILL_S = 3.0
#: After its abort, allow this time for its end: on a busy machine, writing its stacks takes a second.
ABORTED_S = 30.0


class DeadlockWatch:
    """Aborts a process that nothing can wake any more."""

    def __init__(self, channel: Collection[int], kill: Callable[[int, int], None] = os.kill) -> None:
        """`channel`: the inodes of the sockets on which the child hears from the parent."""
        self._channel = channel
        self._kill = kill
        self._next_at = self._since = float("-inf")
        self._seen: object = None
        self._lost_in = 0  #: the process of which a thread has ended for want of memory; 0: none
        self._lost_at = float("-inf")

    def thread_lost(self, pid: int, now: float) -> None:
        """Watch this process and its tree until the task ends: a thread has ended for want of memory."""
        self._lost_in, self._lost_at = pid, now

    def forget_lost_thread(self, before: float) -> None:
        """Watch a process only after a refusal if the thread ended before this time, when a task began."""
        if self._lost_at < before:
            self._lost_in = 0

    def check(self, held: HeldProcess, now: float, tree: Collection[int]) -> HeldProcess:
        """Abort the process if it is in a deadlock; return `held`, as of its end if it was aborted."""
        if now < self._next_at or (now - held.at > WAITS_AFTER_S and not self._lost_in):
            return held
        self._next_at = now + WAITS_EACH_S
        from ..linux import deadlock  # late: few programs are ever refused memory

        pid, lasts_s = held.pid, DEADLOCK_S
        # It may have ended, and its pid may be that of another process.
        waits = deadlock.waits_of_deadlock(pid) if pid in tree else None
        if waits is None and self._lost_in:
            pid, lasts_s = self._lost_in, STILL_S
            waits = deadlock.waits_of_tree(tree, self._channel)
        if waits is None or waits != self._seen:
            self._seen, self._since = waits, now
        elif now - self._since >= lasts_s:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                self._kill(pid, signal.SIGABRT)
                return held._replace(at=now + ABORTED_S)  # so that its end is blamed on the refusal
        return held
