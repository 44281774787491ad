"""What the tasks of a local worker can start and find, and the slots in which what they start runs.

Each depth has slots of its own: a task started by the run's own task has depth 1, one that it starts has
depth 2, and so on. A task waits only for tasks that are deeper, so tasks that wait for each other's slots
cannot block each other; with at most DEPTH_MAX depths, an algorithm that starts itself is bounded.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .task import Answer, LocalTask

#: Started tasks of one depth that run at a time.
SLOTS = max(4, 2 * (os.cpu_count() or 1))
#: The longest chain of tasks that start each other.
DEPTH_MAX = 10


class Execution(Protocol):
    """A started task of another algorithm."""

    def stop(self) -> None:
        """Stop it; its end is not reported any more."""


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


class Waiting(Protocol):
    """A task that waits for its slot."""

    task: LocalTask
    is_stopped: bool

    def run(self) -> None:
        """Start it; it has the slot now."""


class Slots:
    """Grants at most SLOTS subtasks of each depth the right to run, in the order of their requests."""

    def __init__(self) -> None:
        self._running: Counter[int] = Counter()
        self._waiting: defaultdict[int, deque[Waiting]] = defaultdict(deque)

    def request(self, subtask: Waiting) -> None:
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
