"""The futures of a Pool get their results here, and the error that hkrunner.run() would tell of."""

from __future__ import annotations

import time

from ...sandbox.shared.channel import Frame
from ...sandbox.shared.message_format import decode
from ...sandbox.shared.messages import FROM_CHILD, Failed
from ..app.pool_names import PoolNames
from ..protocol.messages import Failure
from ..protocol.result import Result
from .pool_worker import PoolTask
from .results import TaskError, TaskFailed, TaskResult


def failure_of(task: int, body: bytes) -> tuple[Failure, bool]:
    """Return what a worker's Failed says, and whether the worker ends; raises ChannelError."""
    message = decode(Frame(Failed.kind, task, body, None, len(body)), FROM_CHILD)
    assert isinstance(message, Failed), "the frame is of that kind"
    return Failure(message.code, message.message, message.details), message.ends


def result_of(
    task: PoolTask,
    names: PoolNames,
    status: str,
    failure: Failure | None = None,
    *,
    is_loaded: bool = True,
    peak_bytes: int | None = None,
    limit_bytes: int | None = None,
) -> Result:
    """Return what is known of a task that has ended now. `status`: as in Result."""
    duration_s = time.monotonic() - task.began if task.began else 0.0
    now = time.time()
    return Result(
        *names.ids(task.number),
        status,
        now - duration_s,
        now,
        duration_s,
        failure=failure,
        loaded=is_loaded,
        peak_bytes=peak_bytes,
        limit_bytes=limit_bytes,
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
