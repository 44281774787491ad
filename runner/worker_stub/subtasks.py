"""Tasks that a task starts through the code API: they wait for a slot, run, and are retried when they fail.

Each depth has slots of its own: a task started by the run's own task has depth 1, one that it starts has
depth 2, and so on. A task waits only for tasks that are deeper, so tasks that wait for each other's slots
cannot block each other; with at most DEPTH_MAX depths, an algorithm that starts itself is bounded.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .pipeline import Retry
from .pipeline_run import Execution
from .task import Answer, LocalTask

#: Started tasks of one depth that run at a time.
SLOTS = max(4, 2 * (os.cpu_count() or 1))
#: The longest chain of tasks that start each other.
DEPTH_MAX = 10


class AlgorithmStarter(Protocol):
    """Starts tasks of other algorithms."""

    def __contains__(self, name: object) -> bool: ...

    def start(
        self, task: LocalTask, on_end: Callable[[Answer], None], *, ends_on_error: bool = False
    ) -> Execution:
        """Run the task in a process of its algorithm. ends_on_error: a process whose task fails ends."""


class NoAlgorithms:
    """Has no algorithm."""

    def __contains__(self, name: object) -> bool:
        return False

    def start(
        self, task: LocalTask, on_end: Callable[[Answer], None], *, ends_on_error: bool = False
    ) -> Execution:
        raise KeyError(task.algorithm)


class Slots:
    """Grants at most SLOTS subtasks of each depth the right to run, in the order of their requests."""

    def __init__(self) -> None:
        self._running: Counter[int] = Counter()
        self._waiting: defaultdict[int, deque[Subtask]] = defaultdict(deque)

    def request(self, subtask: Subtask) -> None:
        """Have the subtask run once a slot is free: now, if one is."""
        self._waiting[subtask.task.depth].append(subtask)
        self._grant(subtask.task.depth)

    def release(self, depth: int) -> None:
        """Give one slot back, to the next subtask that waits."""
        self._running[depth] -= 1
        self._grant(depth)

    def _grant(self, depth: int) -> None:
        waiting = self._waiting[depth]
        while waiting and self._running[depth] < SLOTS:
            subtask = waiting.popleft()
            if not subtask.is_stopped:
                self._running[depth] += 1
                subtask.run()


@dataclass
class Catalog:
    """What the code API of a local worker can start and find."""

    algorithms: AlgorithmStarter = field(default_factory=NoAlgorithms)
    pipelines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    slots: Slots = field(default_factory=Slots)
    #: Receives a sentence for what is asked for and missing, with the option that gives it.
    on_missing: Callable[[str], None] = lambda text: None
    #: Receives a sentence for each retry.
    on_retry: Callable[[str], None] = lambda text: None


class Subtask:
    """One started task, through its retries, until on_end is called or stop()."""

    def __init__(
        self, catalog: Catalog, task: LocalTask, retry: Retry | None, on_end: Callable[[Answer], None]
    ) -> None:
        self._catalog = catalog
        self._retry = retry
        self._retries = 0
        self._on_end = on_end
        self._execution: Execution | None = None
        self.task = task
        self.is_stopped = False

    def stop(self) -> None:
        """Stop it, or take it out of the queue; on_end is not called."""
        self.is_stopped = True
        if self._execution is not None:
            self._execution.stop()

    def run(self) -> None:
        """Start the task; Slots calls this."""
        # Except under OnCrash, HKube's worker ends with its algorithm, and a retry gets another pod.
        ends = self._retry is not None and self._retry.policy != Retry.policy
        self._execution = self._catalog.algorithms.start(self.task, self._ended, ends_on_error=ends)

    def _ended(self, answer: Answer) -> None:
        self._execution = None
        self._catalog.slots.release(self.task.depth)
        if self.is_stopped:
            return
        if self._may_retry(answer):
            self._retries += 1
            self._report_retry(f"is in StalledState, attempts: {self._retries}/{self._limit}", answer)
            self._catalog.slots.request(self)
        else:
            self._on_end(self._last_answer(answer))

    @property
    def _limit(self) -> int:
        return self._retry.limit if self._retry is not None else 0

    def _may_retry(self, answer: Answer) -> bool:
        is_failed = answer.command == "errorMessage"
        return is_failed and self._retry is not None and self._retries < self._retry.times

    def _last_answer(self, answer: Answer) -> Answer:
        """Return the answer, or HKube's error for a task out of retries, which does not name the cause."""
        if self._retries == 0 or answer.command != "errorMessage":
            return answer
        state = f"is in CrashLoopBackOff, attempts: {self._limit}/{self._limit}"
        self._report_retry(state, answer)
        text = f"node {self.task.node} {state}"
        return replace(answer, message={"command": "errorMessage", "error": {"message": text}})

    def _report_retry(self, state: str, answer: Answer) -> None:
        cause = answer.error.splitlines()[0]
        self._catalog.on_retry(f"node {self.task.node} {state} ({self.task.task}: {cause})")
