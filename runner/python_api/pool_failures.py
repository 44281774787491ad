"""Failures of a Pool's tasks, which refused memory may have caused: only the worker's warden knows.

    worker's Failed -> PoolFailures -- usage? --> supervising process -> the worker's warden
                           |      <-- usage ---
                           +---> the future

An error that cannot come of refused memory, or in a Pool without a memory limit, goes to the future at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...sandbox.shared.limits import Limits
from ...sandbox.shared.supervision_messages import AskWorkerUsage, WorkerUsage
from ..protocol.messages import Failure
from .pool_results import PoolResults
from .pool_task import PoolTask

if TYPE_CHECKING:
    from .pool_process import SupervisorProcess


class PoolFailures:
    """Fails the tasks whose worker says that they have failed."""

    def __init__(self, results: PoolResults) -> None:
        self._results = results
        self._limits = Limits()
        self._limit_bytes: int | None = None
        self._waiting: dict[int, tuple[PoolTask, Failure]] = {}
        self._count = 0

    @property
    def is_waiting(self) -> bool:
        """Whether an answer of the supervising process is due."""
        return bool(self._waiting)

    def begin(self, limits: Limits, limit_bytes: int | None) -> None:
        """Take over the limits of the workers, and the memory limit if one is enforced."""
        self._limits, self._limit_bytes = limits, limit_bytes

    def fail(self, task: PoolTask, failure: Failure, process: SupervisorProcess | None, worker: int) -> None:
        """Fail the task, at once or after the answer of the supervising process of this worker."""
        if self._limit_bytes is not None and process is not None:
            from ..serving.memory_advice import may_be_refusal  # late: most Pools have no failure to explain

            if may_be_refusal(failure):
                self._count += 1
                self._waiting[self._count] = task, failure
                process.send(AskWorkerUsage(worker, self._count))
                return
        self._results.fail(task, failure)

    def on_usage(self, message: WorkerUsage) -> None:
        """Fail the task for which the usage was asked."""
        from ..serving.memory_advice import explain_refusal

        task, failure = self._waiting.pop(message.number)
        peak = message.memory_bytes
        if peak is not None:
            held = message.held_back
            if held is not None and held.concerns(task.began):
                peak = max(peak, held.memory_bytes)  # after the error the memory may be free again
            else:
                held = None
            used = peak
            failure = explain_refusal(failure, self._limits, self._limit_bytes, lambda: used, held=held)
        self._results.fail(task, failure, peak_bytes=peak)

    def lose_process(self) -> None:
        """Fail all tasks that wait, as their workers said: the supervising process has ended."""
        while self._waiting:
            _, (task, failure) = self._waiting.popitem()
            self._results.fail(task, failure)
