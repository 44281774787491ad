"""Gives the futures of a Pool their results, or the errors, as hkrunner.run() reports them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from ...sandbox.shared.channel import Buffer, Frame
from ...sandbox.shared.message_format import decode
from ...sandbox.shared.messages import FROM_CHILD, Failed
from ..app.pool_names import PoolNames
from ..protocol.messages import Failure
from ..protocol.result import Result
from .pool_coding import ENCODING, Coding
from .pool_task import PoolTask
from .results import TaskError, TaskFailed, TaskResult

if TYPE_CHECKING:
    from ..app.pool_records import PoolRecords


def failure_of(task: int, body: bytes) -> tuple[Failure, bool]:
    """Return what a worker's Failed says, and whether the worker ends; raises ChannelError."""
    message = decode(Frame(Failed.kind, task, body, None, len(body)), FROM_CHILD)
    assert isinstance(message, Failed), "the frame is of that kind"
    failure = Failure(message.code, message.message, message.details, message.is_deliberate)
    return failure, message.ends


class PoolResults:
    """Gives futures their results, and has the tasks recorded where that is wanted."""

    def __init__(self, coding: Coding, names: PoolNames) -> None:
        self._coding = coding
        self._names = names
        self._records: PoolRecords | None = None
        self._limit_bytes: int | None = None

    def begin(self, records: Mapping[str, Any] | None, limit_bytes: int | None) -> None:
        """Take over what the supervising process has read: see PoolRecords, and the memory limit."""
        self._limit_bytes = limit_bytes
        if records is not None and self._records is None:
            from ..app.pool_records import PoolRecords  # late: most Pools have none

            self._records = PoolRecords(records, self._names, ENCODING)

    def close(self) -> None:
        """Record nothing more."""
        if self._records is not None:
            self._records.close()

    def note_begin(self, task: PoolTask, pieces: list[Buffer]) -> None:
        """Record that the task begins; `pieces`: of its message."""
        if self._records is not None and not task.recorded_at:
            is_readable = self._coding.is_readable
            task.recorded_at = self._records.begin(task.number, pieces if is_readable else None)

    def succeed(self, task: PoolTask, answer: bytes) -> None:
        """Give the future the result; raises ValueError or MemoryError for what is none."""
        value = self._coding.decode(answer)
        if self._records is not None and task.recorded_at:
            self._records.end(task.recorded_at, self._result(task, "succeed"), answer)
        task.set_result(value)

    def fail(
        self, task: PoolTask, error: BaseException | Failure, *, status: str = "failed", **facts: Any
    ) -> None:
        """Have the future raise this, TaskFailed for a Failure. A task that has not begun is cancelled by a
        CancelledError. `facts`: of the Result."""
        if isinstance(error, CancelledError) and not task.is_running:
            task.cancel()
        if not task.start():
            return
        failure: Failure | None
        if isinstance(error, Failure):
            failure = error
        elif isinstance(error, CancelledError):
            status, failure = "stopped", None
        else:
            failure = Failure("RUNNER_ERROR", f"RUNNER_ERROR: {error}")
        result = self._result(task, status, failure, **facts)
        if self._records is not None and task.recorded_at:
            self._records.end(task.recorded_at, result)
        task.set_error(task_failed(result) if isinstance(error, Failure) else error)

    def _result(self, task: PoolTask, status: str, failure: Failure | None = None, **facts: Any) -> Result:
        """Return what is known of a task that has ended now. `status`, `facts`: as in Result."""
        duration_s = time.monotonic() - task.began if task.began else 0.0
        now = time.time()
        facts.setdefault("limit_bytes", self._limit_bytes)
        return Result(
            *self._names.ids(task.number),
            status,
            now - duration_s,
            now,
            duration_s,
            failure=failure,
            **facts,
        )


def task_failed(result: Result) -> TaskFailed:
    """Return the error of a task that has failed, or was stopped."""
    failure = result.failure
    assert failure is not None, "there is a reason"
    return TaskFailed(
        TaskResult(
            task_id=result.task,
            job_id=result.job,
            status=result.status,
            reason=result.reason,
            output=None,
            error=TaskError(failure.code, failure.message, failure.details),
            duration_s=result.duration_s,
            peak_bytes=result.peak_bytes,
            limit_bytes=result.limit_bytes,
            cpu_s=None,
            metrics_dir=None,
            logs=None,
        )
    )
