"""The tasks of a Pool with an executor: passes them to the executor, and their results to the futures."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import Executor, Future, wait
from dataclasses import replace
from functools import partial
from typing import Any

from ...sandbox.shared.supervision_messages import Supervise
from ..app.pool_names import PoolNames
from .pool_coding import Coding
from .pool_node import NodeOrder, NodeOutcome, end_here, run_task
from .pool_task import PoolTask
from .results import TaskFailed


class ExecutorFuture(Future[Any]):
    """The future of a task, which can be cancelled as long as the executor's can."""

    inner: Future[NodeOutcome] | None = None  #: the executor's; None: the task was not given to it

    def cancel(self) -> bool:
        """Cancel the task unless the executor has begun it; return whether that was possible."""
        return (self.inner is None or self.inner.cancel()) and super().cancel()


class ExecutorDispatcher:
    """For a Pool, what PoolDispatcher is for one with workers of its own."""

    def __init__(
        self,
        executor: Executor,
        order: Supervise,
        coding: Coding,
        function: bytes | None,
        *,
        spare: bool,
    ) -> None:
        """`function`: the pickled function of the Pool, if it has one."""
        self._executor = executor
        self._coding = coding
        self._names = PoolNames.of(coding.name)
        self._node = NodeOrder(uuid.uuid4().hex, coding.name, order, function, spare)
        self._lock = threading.RLock()
        self._count = 0
        self._is_closed = False
        self._futures: set[ExecutorFuture] = set()  #: those that are not done
        self.ready: Future[None] = Future()
        self.ready.set_result(None)

    def submit(
        self, positional: tuple[Any, ...], named: dict[str, Any], timeout_s: float | None
    ) -> Future[Any]:
        """Give a task to the executor; raises what the executor raises, and RuntimeError after the end."""
        future = ExecutorFuture()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._count += 1
            number = self._count
            # Now, so that a shutdown in another thread waits for it, or cancels it.
            self._futures.add(future)
        task = PoolTask(number, future, positional, named, timeout_s)
        try:
            message = b"".join(self._coding.encode(task, self._names))
        except Exception as error:  # noqa: BLE001 - of the arguments' own classes
            self._forget(future)
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return future
        name = self._names.ids(number).task
        try:
            # Not within the lock, which the end of another task needs: an executor may wait for that here.
            future.inner = self._executor.submit(run_task, self._node, name, message, timeout_s)
        except BaseException:
            self._forget(future)
            Future.cancel(future)  # for a shutdown that waits for it
            future.set_running_or_notify_cancel()
            raise
        if future.cancelled():
            future.inner.cancel()
        future.inner.add_done_callback(partial(self._on_done, future, number))
        return future

    def close(self, *, cancel: bool = False, now: bool = False) -> None:
        """Take no more tasks. `cancel`, `now`: those that the executor has not begun are cancelled."""
        with self._lock:
            self._is_closed = True
            futures = tuple(self._futures) if cancel or now else ()
        for future in futures:
            future.cancel()

    def join(self) -> None:
        """Wait for the end of all tasks."""
        with self._lock:
            futures = tuple(self._futures)
        wait(futures)
        end_here(self._node)

    def _on_done(self, future: ExecutorFuture, number: int, inner: Future[NodeOutcome]) -> None:
        try:
            self._pass_on(future, number, inner)
        finally:
            self._forget(future)

    def _forget(self, future: ExecutorFuture) -> None:
        with self._lock:
            self._futures.discard(future)

    def _pass_on(self, future: ExecutorFuture, number: int, inner: Future[NodeOutcome]) -> None:
        if inner.cancelled():
            Future.cancel(future)
        if not future.set_running_or_notify_cancel():
            return
        error = inner.exception()
        if error is not None:
            future.set_exception(error)
            return
        outcome = inner.result()
        if outcome.failure is not None:
            ids = self._names.ids(number)
            future.set_exception(TaskFailed(replace(outcome.failure, task_id=ids.task, job_id=ids.job)))
            return
        try:
            future.set_result(self._coding.decode(outcome.answer))
        except (ValueError, MemoryError) as broken:
            future.set_exception(broken)
