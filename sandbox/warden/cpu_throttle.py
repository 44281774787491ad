"""A CPU limit for a whole process tree without the kernel's help: SIGSTOP all processes while over quota.

A token bucket. Tokens, in seconds of CPU time, are added at the rate of the quota and spent as the tree uses
CPU. When the bucket is empty, the tree is stopped. It continues once there are tokens for the next run phase.
A debt is kept: what one phase uses beyond its tokens lengthens the next stop, so that over a few periods the
sum is exact, however many processes there are. A program below its quota is never stopped, and after a rest
may use up to BURST_S of quota at once.

A program can notice SIGSTOP and SIGCONT: a parent gets SIGCHLD for stopped children, and epoll_wait returns
EINTR. A tree must never be left stopped: every way out calls close().
"""

from __future__ import annotations

import enum
import math
import os
import signal
from typing import Protocol

from ..linux import process_tree

PERIOD_S = 0.04
BURST_S = 0.2
#: Shortest time between two readings of a running tree, and between its stops; overuse remains as a debt.
SHORTEST_S = 0.01
#: Longest time between two readings of a running tree; less if its tokens could be used up by then.
LONGEST_S = 0.1
#: Time over which the CPU time used is compared with the quota.
WINDOW_S = 4.0
#: Largest correction of the quota, as a share, for the delays of signals and sampling.
MOST_CORRECTION = 0.08
#: CPU time that a stopped tree may use before it is stopped again: signals arrive a little late.
AWAKE_S = 0.002
#: Sweeps for one stop: a tree that keeps forking has new processes after each.
SWEEPS = 4


class ThrottleState(enum.Enum):
    """What the throttle does with its tree."""

    RUNNING = "the tree runs"
    STOPPED = "the tree is stopped until there are tokens again"
    CLOSED = "the tree runs, and is never stopped again"


class Tree(Protocol):
    """What the throttle needs of a sampler."""

    def walk_if_born(self) -> bool:
        """Update the list of processes if one may have been forked; return whether it was updated."""

    def pids(self) -> list[int]:
        """Return the pids of the tree's processes."""

    def cpu_ns(self) -> int:
        """Return the CPU time of the tree up to now, in nanoseconds."""


class CpuThrottle:
    """Holds one tree to `cores` of CPU on average."""

    def __init__(self, cores: float, tree: Tree, *, cpus: int | None = None) -> None:
        self._cores = cores
        self._tree = tree
        self._cpus = cpus or len(os.sched_getaffinity(0))
        self._burst = cores * BURST_S
        self._tokens = cores * PERIOD_S
        self._at: float | None = None
        self._used = 0.0
        self._stopped: set[int] = set()
        self.state = ThrottleState.RUNNING
        self._correction = 0.0
        self._window_at = 0.0
        self._window_used = 0.0
        self._window_busy = True
        self._stops = 0
        self.next_at = 0.0

    @property
    def is_needed(self) -> bool:
        """Whether the quota is below what the machine has; else no process is ever stopped."""
        return self._cores < self._cpus

    def tick(self, now: float) -> float:
        """Update the tokens, and stop or continue the tree accordingly; return when to call again."""
        if self.state is ThrottleState.CLOSED or not self.is_needed:
            self.next_at = now + 3600.0
            return self.next_at
        used = self._used
        self._account(now)
        if self.state is ThrottleState.STOPPED:
            if self._tokens >= self._enough():
                self._continue()
                self.state = ThrottleState.RUNNING
            elif self._used - used > AWAKE_S:
                self._stopped.clear()  # a process was forked, or continued by another: stop all again
                self._stop()
        elif self._tokens <= 0:
            self._stops += 1
            self.state = ThrottleState.STOPPED
            self._stop()
        self.next_at = now + self._pause()
        return self.next_at

    def close(self) -> None:
        """Continue the tree for good. Safe to call at any time and more than once."""
        was, self.state = self.state, ThrottleState.CLOSED
        if was is ThrottleState.STOPPED:
            self._continue()

    # --- tokens ---

    def _account(self, now: float) -> None:
        used = self._tree.cpu_ns() / 1e9
        if self._at is None:
            self._at, self._used = now, used
            self._window_at, self._window_used = now, used
            return
        passed = now - self._at
        self._tokens += passed * self._cores * (1 + self._correction) - (used - self._used)
        if self._tokens > self._burst:
            # The tree uses less than its quota: nothing to correct in this window.
            self._tokens = self._burst
            self._window_busy = False
        self._at, self._used = now, used
        self._correct(now, used)

    def _correct(self, now: float, used: float) -> None:
        """Correct the quota by the error of the last seconds, which signals and sampling cause."""
        passed = now - self._window_at
        if passed < WINDOW_S / 4:
            return
        if self._window_busy and self._stops:
            error = (self._cores * passed - (used - self._window_used)) / (self._cores * passed)
            self._correction += 0.5 * error
            self._correction = max(-MOST_CORRECTION, min(MOST_CORRECTION, self._correction))
        self._window_at, self._window_used, self._window_busy = now, used, True

    def _enough(self) -> float:
        """Return the tokens with which a stopped tree continues."""
        return min(self._burst, self._cores * PERIOD_S)

    def _pause(self) -> float:
        if self.state is ThrottleState.STOPPED:
            return max(SHORTEST_S / 2, min(PERIOD_S, (self._enough() - self._tokens) / self._cores))
        # The soonest the bucket could be empty: every processor runs this tree.
        return max(SHORTEST_S, min(LONGEST_S, self._tokens / max(0.1, self._cpus - self._cores)))

    # --- signals ---

    def _stop(self) -> None:
        self._tree.walk_if_born()
        for _ in range(SWEEPS):
            for pid in self._tree.pids():
                if pid not in self._stopped:
                    self._stopped.add(pid)
                    process_tree.signal_to(pid, signal.SIGSTOP)
            if not self._tree.walk_if_born():
                return

    def _continue(self) -> None:
        # The pid of a process that has ended may be a stranger's now: ask the tree for its processes.
        self._tree.walk_if_born()
        for pid in self._tree.pids():
            process_tree.signal_to(pid, signal.SIGCONT)
        self._stopped.clear()


class CpuLimit:
    """The CPU limit of one tree, enforced by a throttle, which can be switched off.

    It is off during a kill, whose signals SIGCONT would undo, and while the algorithm ends
    within its grace period.
    """

    def __init__(self, cores: float | None, tree: Tree) -> None:
        """`cores`: what the tree may use; None: there is no limit, or the kernel enforces it."""
        self._cores = cores
        self._tree = tree
        self._is_suspended = False
        self.throttle = self._new_throttle()

    def _new_throttle(self) -> CpuThrottle | None:
        throttle = CpuThrottle(self._cores, self._tree) if self._cores is not None else None
        return throttle if throttle is not None and throttle.is_needed else None

    @property
    def next_at(self) -> float:
        """Time of the next tick(); infinity while nothing is throttled."""
        return self.throttle.next_at if self.throttle is not None else math.inf

    def tick(self, now: float) -> None:
        """Stop or continue the tree if that is due."""
        if self.throttle is not None and now >= self.throttle.next_at:
            self.throttle.tick(now)

    def stop(self) -> None:
        """Let all processes run, and send no more signals."""
        if self.throttle is not None:
            self.throttle.close()
            self.throttle = None

    def restart(self) -> None:
        """Enforce the limit again after a kill that was called off, unless it is suspended."""
        if self.throttle is None and not self._is_suspended:
            self.throttle = self._new_throttle()

    def suspend(self) -> None:
        """Enforce no limit until resume(): the algorithm ends within its grace period."""
        self._is_suspended = True
        self.stop()

    def resume(self) -> None:
        """Enforce the limit again after suspend()."""
        self._is_suspended = False
        self.restart()
