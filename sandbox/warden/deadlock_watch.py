"""Ends a child that waits for ever after it was refused memory: nothing else would end it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection

from .memory_brake import HeldProcess

#: Interval between readings of what the threads wait for.
WAITS_EACH_S = 0.5
#: The time after a refusal in which its process is watched for a lock that no thread can release, and how
#: long a wait must last to be taken for a deadlock. The whole tree is watched until the task ends: a thread
#: may wait for what another one has left undone long before.
WAITS_AFTER_S = 10.0
DEADLOCK_S = 1.0
#: After its abort, allow this time for its end: on a busy machine, writing its stacks takes a second.
ABORTED_S = 30.0


class DeadlockWatch:
    """Aborts a process that nothing can wake any more, or the child if nothing can wake any process."""

    def __init__(self, child: int = 0, control: int = 0, kill: Callable[[int, int], None] = os.kill) -> None:
        """`control`: the inode of the socket on which the child hears of a stop from the parent."""
        self._child = child
        self._control = control
        self._kill = kill
        #: Whether a stop could wake the child's main thread: it has a stop() of the user's.
        self.has_stop = False
        self._next_at = self._since = float("-inf")
        self._seen: object = None
        self._lost_at = float("-inf")

    def thread_lost(self, now: float) -> None:
        """Note that a thread of the child has ended for want of memory: what waits may wait for it."""
        self._lost_at = now

    def forget_lost_thread(self, before: float) -> None:
        """Forget the thread if it ended before this time, when a task began."""
        if self._lost_at < before:
            self._lost_at = float("-inf")

    def check(self, held: HeldProcess, now: float, tree: Collection[int]) -> HeldProcess:
        """Abort the process if it is in a deadlock; return `held`, as of its end if it was aborted."""
        if now < self._next_at:
            return held
        self._next_at = now + WAITS_EACH_S
        from ..linux import deadlock  # late: few programs are ever refused memory

        # It may have ended, and its pid may be that of another process.
        is_recent = now - held.at <= WAITS_AFTER_S and held.pid in tree
        pid, waits = held.pid, deadlock.waits_of_deadlock(held.pid) if is_recent else None
        if waits is None:
            is_explained = self._lost_at > float("-inf")
            pid = self._child
            waits = deadlock.waits_of_tree(
                tree, pid, self._control, has_stop=self.has_stop, is_explained=is_explained
            )
        if waits is None or waits != self._seen:
            self._seen, self._since = waits, now
        elif now - self._since >= DEADLOCK_S:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                self._kill(pid, signal.SIGABRT)
                return held._replace(at=now + ABORTED_S)  # so that its end is blamed on the refusal
        return held
