"""Waits for the child and its descendants, signals them, and has them write their stacks."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from ..linux import process_tree, procfs
from ..shared.channel import LAST_STACK_SIGNAL, STACK_SIGNAL
from .child_start import StartedChild

if TYPE_CHECKING:
    from ..isolation.namespace_init import NamespaceInit

#: Time for faulthandler to write the stacks of a child that is about to be killed.
STACK_S = 0.25
#: Time for resource trackers to remove what the processes that they served have left; one that has just been
#: started needs 20 ms for Python's own start, on a busy machine many times as long.
TRACKERS_S = 5.0
#: Time for a process that exceeds the memory limit to write its stacks, in which its other threads may use
#: more memory. Writing takes 0.2 ms once the process gets a processor. It may wait for one for longer, if it
#: uses hardly any more memory meanwhile.
LAST_STACK_S = 0.03
LAST_STACK_MOST_S = 0.5
LAST_STACK_BYTES = 2 << 20


class ChildTree:
    """All processes below the warden."""

    def __init__(
        self,
        clock: Callable[[], float],
        select: Callable[..., tuple[list[int], list[int], list[int]]],
    ) -> None:
        """Have SIGCHLD make `wake_fd` readable from now on."""
        self._clock = clock
        self._select = select
        self.child = 0  #: pid of the child, 0 before it was started
        self._init: NamespaceInit | None = None  #: process 1 of the child's pid namespace, if it has one
        self.status: int | None = None  #: wait status of the child, once it has ended
        self.usage: Any = None  #: rusage of the child, once it has ended
        self.stack_fd = -1  #: the file into which the child's faulthandler writes stacks
        #: When to kill what may be a helper of a process that was ended: by pid and start time.
        self._doubtful: dict[tuple[int, int], float] = {}
        self.on_reaped: Callable[[int, Any], None] | None = None  #: called for every process waited for
        # SIGCHLD only has to wake select(). Without a handler nothing would be written to the descriptor.
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.wake_fd, self._wake_write = wake_read, wake_write
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def take(self, started: StartedChild) -> None:
        """Take over the child that was started, or note how one ended that could not be executed."""
        self.child, self.status, self._init = started.pid, started.status, started.init

    def close(self) -> None:
        """Close all descriptors."""
        signal.set_wakeup_fd(-1)
        for fd in (self.wake_fd, self._wake_write, self.stack_fd):
            if fd >= 0:
                os.close(fd)

    @property
    def init_pid(self) -> int:
        """The pid of process 1 of the child's pid namespace; 0: it has none."""
        return self._init.pid if self._init is not None else 0

    @property
    def report_fds(self) -> list[int]:
        """The descriptor that is readable when process 1 has reaped a process; [] without one."""
        return [self._init.fd] if self._init is not None and self._init.fd >= 0 else []

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake_fd, 4096):
                pass

    def reap(self) -> None:
        """Reap every process that has ended."""
        self._drain_wake()
        if self._init is not None:
            process_tree.go_on(self._init.pid)  # what it does not report, nobody knows of
        self._take_reports()
        process_tree.reap(self.reaped)

    def _take_reports(self) -> None:
        """Handle what process 1 of the namespace has reaped, as if it had been reaped here."""
        for ended in self._init.ended() if self._init is not None else ():
            self.reaped(self.child if ended.is_algorithm else 0, ended.status, ended.usage)

    def reaped(self, pid: int, status: int, usage: Any) -> None:
        """Note that a process has ended, and was reaped."""
        if self._init is not None and pid == self._init.pid:
            self._take_reports()
            usage = self._init.own_usage(usage)
            if self.status is None:  # it was killed before it could report the end of the child
                self.status, self.usage = status, usage
        if self.on_reaped is not None:
            self.on_reaped(pid, usage)
        if pid == self.child:
            self.status = status
            self.usage = usage

    def wait(self, seconds: float) -> None:
        """Wait until a process has ended, for at most this long."""
        ready, _, _ = self._select([self.wake_fd], [], [], seconds)
        if ready:
            self._drain_wake()

    def end_others(self, helpers: Collection[int] | None) -> None:
        """Kill every process but the child itself; the next sweep finds those forked meanwhile.

        The child's `helpers` stay, see process_tree.is_helper(). Without its resource tracker, Python would
        warn of the loss, and forget what is to be removed; without its fork server, the first process that
        the next task starts may fail: Python takes a server that is being killed for one that serves.
        A helper of another process gets the time to end by itself, once that process has ended.
        """
        for _ in range(10):
            kept = (self.child, self.init_pid)
            below = [one for one in process_tree.descendants(os.getpid()) if one not in kept]
            # A zombie stays until the algorithm waits for it.
            others = [one for one in below if not process_tree.helper_of(one) and not procfs.is_zombie(one)]
            if not others:
                break
            for pid in others:
                process_tree.signal_to(pid, signal.SIGKILL)
            self.wait(0.002)
            process_tree.reap(self.reaped)
        for pid in below:
            if process_tree.helper_of(pid) and not process_tree.is_helper(pid, helpers):
                with contextlib.suppress(OSError):
                    started = procfs.stat(pid).started
                    self._doubtful.setdefault((pid, started), self._clock() + TRACKERS_S)

    @property
    def doubtful_until(self) -> float:
        """When end_doubtful() has something to do, on the monotonic clock."""
        return min(self._doubtful.values(), default=math.inf)

    def end_doubtful(self) -> None:
        """Kill what end_others() has taken for the helper of a process that has ended, if it is there."""
        for (pid, started), until in list(self._doubtful.items()):
            if self._clock() >= until:
                del self._doubtful[pid, started]
                with contextlib.suppress(OSError):
                    if procfs.stat(pid).started == started:
                        process_tree.signal_to(pid, signal.SIGKILL)

    def wait_for_trackers(self) -> dict[int, process_tree.Left]:
        """Kill all processes but the resource trackers, which then remove what those have left, and end.

        Return the processes that were killed.
        """
        killed: dict[int, process_tree.Left] = {}
        below = list(process_tree.descendants(os.getpid()))
        trackers = {pid for pid in below if process_tree.helper_of(pid) == "resource_tracker"}
        for pid in trackers:
            process_tree.signal_to(pid, signal.SIGCONT)  # it is frozen if a limit was exceeded
        if trackers and self._init is not None:
            process_tree.signal_to(self.init_pid, signal.SIGCONT)
        deadline = self._clock() + TRACKERS_S
        while trackers and self._clock() < deadline:
            for pid in below:
                if pid not in trackers and pid != self.init_pid:
                    if pid not in killed:
                        killed[pid] = process_tree.look(pid)
                    process_tree.signal_to(pid, signal.SIGKILL)
            self.wait(0.005)
            self._take_reports()
            process_tree.reap(self.reaped)
            below = list(process_tree.descendants(os.getpid()))
            trackers.intersection_update(below)
        return killed

    def write_stacks(self) -> None:
        """Have faulthandler write the stack of every thread, which works even while C code holds the GIL."""
        # Before SIGCONT: a process that has stopped itself then writes where it did so, before it continues.
        process_tree.signal_to(self.child, STACK_SIGNAL)
        process_tree.signal_to(self.child, signal.SIGCONT)
        deadline = self._clock() + STACK_S
        size = same = 0
        while self._clock() < deadline and self.status is None:
            self.wait(0.001)
            self._take_reports()
            process_tree.reap(self.reaped)
            found = os.fstat(self.stack_fd).st_size
            same = same + 1 if found and found == size else 0
            if same >= 3 and not self._lacks_awaits(size):
                return  # the file has stopped growing: the stacks are complete
            size = found

    def _lacks_awaits(self, size: int) -> bool:
        """Whether a thread waits in a selector, and what asyncio's tasks await is still to be written.

        See child/await_stacks.py; it cannot be in a process that has another handler.
        """
        text = os.pread(self.stack_fd, size, 0)
        return b'selectors.py", line' in text and not text.endswith(b"\n\n")

    def write_last_stacks(self, largest: list[int]) -> None:
        """End the largest process with a signal whose handler writes its stacks first; else the child.

        All processes are frozen. Only the child, and a process that it has forked, has that handler.
        """
        pid = next((one for one in largest if procfs.catches(one, LAST_STACK_SIGNAL)), self.child)
        if not procfs.catches(pid, LAST_STACK_SIGNAL):
            return
        process_tree.signal_to(pid, LAST_STACK_SIGNAL)
        process_tree.signal_to(pid, signal.SIGCONT)
        began, before = self._clock(), procfs.rss(pid)
        while self.status is None and procfs.catches(pid, LAST_STACK_SIGNAL):
            took = self._clock() - began
            if took >= LAST_STACK_S and (
                took >= LAST_STACK_MOST_S or procfs.rss(pid) >= before + LAST_STACK_BYTES
            ):
                return
            self.wait(0.0005)
            self._take_reports()
            process_tree.reap(self.reaped)
