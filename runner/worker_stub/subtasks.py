"""Tasks that a task starts through the code API, through their retries."""

from __future__ import annotations

from collections.abc import Callable

from .catalog import Catalog, Execution
from .pipeline import Retry
from .task import Answer, LocalTask


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
        return answer._replace(message={"command": "errorMessage", "error": {"message": text}})

    def _report_retry(self, state: str, answer: Answer) -> None:
        cause = answer.error.splitlines()[0]
        self._catalog.on_retry(f"node {self.task.node} {state} ({self.task.task}: {cause})")
