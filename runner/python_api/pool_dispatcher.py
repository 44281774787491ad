"""The thread of a Pool: gives tasks to workers, their results to futures, and has lost workers replaced.

    submit() -> pending -> a worker's socket -> its answer -> the future
                   ^             |
                   +-------------+   what a worker has not begun when it dies, or when its task takes long

Short tasks are sent ahead, as many as take AHEAD_S; a task that turns out to be long has those behind it
recalled (task_marks.py). So no worker waits for the next task, and no task waits behind another one while
there is a free worker. A worker that dies takes with it the one task that it has begun.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from ...sandbox.shared.channel import Buffer, ChannelError, Frame
from ...sandbox.shared.limits import Limits
from ...sandbox.shared.message_format import ProcessMessage
from ...sandbox.shared.messages import Done
from ...sandbox.shared.pool_messages import Recalled
from ...sandbox.shared.supervision_messages import (
    PoolReady,
    PoolRefused,
    Supervise,
    WorkerEnded,
    WorkerLoaded,
    WorkerUsage,
)
from ..app.pool_names import PoolNames
from ..errors import BY_EXIT_STATUS, EntryUnusable, HkrunnerError
from ..io.loop import Loop
from ..io.standard_streams import write_to_stderr
from ..protocol.messages import Failure
from .pool_coding import Coding
from .pool_failures import PoolFailures
from .pool_process import SupervisorProcess
from .pool_results import PoolResults, failure_of
from .pool_task import PoolTask
from .pool_worker import AHEAD_BYTES, PoolWorker, body_of
from .pool_worker_set import WorkerSet

#: Tasks are sent ahead as long as they take this time together, judged by the last ones.
AHEAD_S = 0.004
AHEAD_MAX = 128
#: Share of the last task in the average time of tasks, and the average before the first one.
WEIGHT, FIRST_S = 0.1, 0.01
#: After this many workers in a row have ended without having begun a task, one task fails with the reason.
LOSSES_MAX = 3


class PoolDispatcher:
    """Runs the tasks of one Pool in a thread of its own."""

    def __init__(
        self, order: Supervise, coding: Coding, function: bytes | None, *, workers: int, spare: bool
    ) -> None:
        """Start the thread. `function`: see SupervisorProcess."""
        self._order = order
        self._coding = coding
        self._names = PoolNames.of(coding.name)
        self._results = PoolResults(coding, self._names)
        self._failures = PoolFailures(self._results)
        self._function = function
        self._loop = Loop()
        self._workers = WorkerSet(
            self._loop,
            size=workers,
            spare=spare,
            requeue=self._requeue,
            on_room=self._dispatch,
            on_frame=self._on_frame,
        )
        self._pid = os.getpid()
        #: For what other threads use. Reentrant: a Pool may be garbage-collected at any line here.
        self._lock = threading.RLock()
        self._is_over = False  #: whether the loop is closed
        self._pending: deque[PoolTask] = deque()
        self._count = 0  #: tasks submitted
        self._is_woken = False  #: whether the thread will look at the pending tasks
        self._refusal: BaseException | None = None  #: why no task is taken any more
        self._is_closing = False
        self._average_s = FIRST_S  #: time that a task takes
        self._timeout_s: float | None = None
        self._process: SupervisorProcess | None = None
        #: Done once the settings are accepted, or refused.
        self.ready: Future[None] = Future()
        self.thread = threading.Thread(target=self._run, name="hkrunner-pool", daemon=True)
        self.thread.start()

    # ---- for other threads

    def submit(
        self, positional: tuple[Any, ...], named: dict[str, Any], timeout_s: float | None
    ) -> Future[Any]:
        """Queue a task; raises RuntimeError after the end, and HkrunnerError if the code cannot be loaded."""
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this Pool belongs to process {self._pid}, from which this one was forked: make a Pool here"
            )
        future: Future[Any] = Future()
        with self._lock:
            if self._refusal is not None:
                raise self._refusal.with_traceback(None)
            self._count += 1
            self._pending.append(PoolTask(self._count, future, positional, named, timeout_s))
            is_woken, self._is_woken = self._is_woken, True
        if not is_woken:
            self._post(self._dispatch)
        return future

    def close(self, *, cancel: bool = False, now: bool = False) -> None:
        """Take no more tasks, and end after the last one. `cancel`: those that have not begun; `now`: end
        those that have begun as well."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._refusal is None:
                self._refusal = RuntimeError("cannot schedule new futures after shutdown")
        self._post(partial(self._close, cancel or now, now))

    def join(self) -> None:
        """Wait for the end of the thread, and so of every process."""
        if os.getpid() == self._pid and threading.current_thread() is not self.thread:
            self.thread.join()

    def _post(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self._is_over:
                self._loop.post_from_thread(callback)

    # ---- the thread

    def _run(self) -> None:
        try:
            self._start_process()
            self._loop.run()
            reason: BaseException = CancelledError()
        except BaseException as error:  # noqa: BLE001 - whatever it is, no future may wait for ever
            reason = error
        with self._lock:
            if self._refusal is None:
                self._refusal = RuntimeError(f"the Pool has ended: {type(reason).__name__}: {reason}")
        if not self.ready.done():
            self.ready.set_exception(reason)
        self._failures.lose_process()
        self._workers.recall_all()
        for worker in self._workers.all():
            for one in worker.take_all():
                self._results.fail(one, reason)
            worker.close()
        self._fail_pending(reason)
        if self._process is not None:
            self._process.wait()
        self._results.close()
        with self._lock:
            self._is_over = True
        self._loop.close()

    def _start_process(self) -> None:
        self._process = SupervisorProcess(
            self._loop, self._order, self._function, self._on_message, self._on_process_end
        )
        self._workers.begin(self._process)

    def _on_message(self, message: ProcessMessage, fds: list[int]) -> None:
        if isinstance(message, WorkerUsage):
            self._failures.on_usage(message)
            self._end_if_done()
        elif isinstance(message, (WorkerLoaded, WorkerEnded)):
            worker = self._workers.get(message.worker)
            assert worker is not None, "it is forgotten when its end was told"
            if isinstance(message, WorkerEnded):
                self._on_ended(worker, message)
            else:
                self._workers.attach(worker, *fds)
                self._dispatch()
        elif isinstance(message, PoolReady):
            self._on_ready(message)
        # Otherwise the process ends with this error, and another one may succeed.
        elif isinstance(message, PoolRefused) and (message.exit_status != 1 or not self.ready.done()):
            self._give_up(BY_EXIT_STATUS.get(message.exit_status, HkrunnerError)(message.message))

    def _on_ready(self, message: PoolReady) -> None:
        self._timeout_s = message.timeout_s
        limits = Limits.from_json(message.limits)
        limit_bytes = limits.memory_bytes if limits.enforced else None
        self._results.begin(message.records, limit_bytes)
        self._failures.begin(limits, limit_bytes)
        if not self.ready.done():
            self.ready.set_result(None)
        self._dispatch()

    # ---- tasks

    def _dispatch(self) -> None:
        """Send pending tasks to the workers that have room for them."""
        while True:
            self._fill_workers()
            with self._lock:
                # While tasks wait, an answer comes here anyway, and submit() need not: unless a task came
                # when those before it could not be sent.
                self._is_woken = bool(self._pending)
                if not self._pending or all(one.sent for one in self._workers.active()):
                    return

    def _fill_workers(self) -> None:
        pending = self._pending
        if pending:
            active = self._workers.active()
            ahead = min(AHEAD_MAX, 1 + int(AHEAD_S / self._average_s))
            for worker in active:
                if not worker.sent and pending:
                    self._send(worker, min(ahead, -(-len(pending) // len(active))))
            for worker in active if ahead > 1 else ():
                room = ahead - len(worker.sent)
                if 2 * room >= ahead and pending and worker.sent_bytes < AHEAD_BYTES:
                    self._send(worker, min(room, -(-len(pending) // len(active))))
        if not pending and self._is_closing:
            self._end_if_done()

    def _send(self, worker: PoolWorker, count: int) -> None:
        """Send the worker up to `count` of the pending tasks."""
        chosen: list[tuple[PoolTask, list[Buffer]]] = []
        try:
            self._choose(worker, count, chosen)
            failed = self._workers.send(worker, chosen) if chosen else []
        except BaseException:
            # The Pool ends with it, and no future may be forgotten.
            sent = {one.task for one in worker.sent}
            self._requeue([one for one, _ in chosen if one not in sent])
            raise
        for task, reason in failed:
            self._results.fail(task, reason)

    def _choose(self, worker: PoolWorker, count: int, chosen: list[tuple[PoolTask, list[Buffer]]]) -> None:
        """Move up to `count` of the pending tasks to `chosen`, with the pieces of their messages."""
        size = worker.sent_bytes
        last = worker.sent[-1].task if worker.sent else None
        while self._pending and len(chosen) < count and (size < AHEAD_BYTES or last is None):
            task = self._pending[0]
            if task.timeout_s is None:
                task.timeout_s = self._timeout_s
            if last is not None and (last.timeout_s is None) is not (task.timeout_s is None):
                return  # otherwise there would be no time by which all must have ended
            self._pending.popleft()
            if not task.start():
                continue
            try:
                pieces = self._coding.encode(task, self._names)
            except BaseException as error:  # noqa: BLE001 - of the arguments' own classes
                task.set_error(error)
                continue
            chosen.append((task, pieces))
            last = task
            size += sum(map(len, pieces))
            self._results.note_begin(task, pieces)

    def _on_frame(self, worker: PoolWorker, frame: Frame) -> None:
        """Give an answer to its future."""
        if not worker.sent or worker.sent[0].number != frame.task:
            self._workers.on_broken(worker, f"it answered task {frame.task}, which it was not to begin")
            return
        first = worker.take_first()
        task = first.task
        try:
            body = body_of(frame)
            if frame.kind == Recalled.kind and first.is_asked_back:
                if not first.is_recalled:
                    task.spent_s += time.monotonic() - task.began
                    self._requeue([task])
                return
            if frame.kind == Recalled.kind:
                raise ChannelError("it did not begin a task that was not recalled")
            if first.is_recalled:
                raise ChannelError("it has begun a task that was recalled")
            self._average_s += WEIGHT * (time.monotonic() - task.began - self._average_s)
            if frame.kind == Done.kind:
                self._results.succeed(task, body)
            else:
                failure, ends = failure_of(frame.task, body)
                self._failures.fail(task, failure, self._process, worker.number)
                if ends:
                    worker.ends_itself = True
                    self._workers.retire(worker)
        except (ChannelError, ValueError, MemoryError) as error:
            if not first.is_recalled:
                self._results.fail(task, Failure("CHANNEL_BROKEN", f"CHANNEL_BROKEN: {error}"))
            self._workers.on_broken(worker, str(error))
        self._workers.note_answered(worker)

    def _requeue(self, tasks: list[PoolTask]) -> None:
        """Have these tasks run next, in their order."""
        self._pending.extendleft(reversed(tasks))

    # ---- workers

    def _on_ended(self, worker: PoolWorker, message: WorkerEnded) -> None:
        """Fail the task in which the worker has died, if any, and have the others run elsewhere."""
        worker.drain()
        self._workers.remove(worker)
        task, others = worker.split_at_end()
        worker.close()
        self._requeue(others)
        failure = Failure(message.code, message.message, message.details)
        if task is not None:
            self._workers.losses = 0
            self._results.fail(
                task,
                failure,
                status="stopped" if message.stopped else "failed",
                peak_bytes=message.peak_bytes,
                limit_bytes=message.limit_bytes,
            )
        elif message.code == "TASK_TIMEOUT":
            pass  # its answers came in time, and were not read in time
        elif not self._workers.is_ending and not worker.ends_itself:
            self._on_loss(failure._replace(message=message.without_task), is_loaded=message.loaded)
        if self._workers.is_ending:
            self._fail_pending(CancelledError())
        self._workers.fill_up()
        self._dispatch()

    def _on_loss(self, failure: Failure, *, is_loaded: bool) -> None:
        """Count a worker that ended without having begun a task: the next ones may do the same, for ever."""
        workers = self._workers
        workers.losses += 1
        if not is_loaded and not workers.was_loaded:
            if not workers.all():  # otherwise another one may load the code, or report the same error
                self._give_up(EntryUnusable(failure.message))
            return
        if workers.losses < LOSSES_MAX or not self._pending:
            write_to_stderr(f"hkrunner: a worker of the Pool has ended: {failure.message}\n")
            return
        task = self._pending.popleft()
        self._results.fail(task, failure, loaded=is_loaded)

    # ---- the end

    def _close(self, cancel: bool, now: bool) -> None:
        self._is_closing = True
        if cancel:
            self._fail_pending(CancelledError())
        if now:
            self._workers.recall_all()
            self._fail_pending(CancelledError())
            self._workers.end(now=True)
        self._end_if_done()

    def _fail_pending(self, reason: BaseException) -> None:
        while self._pending:
            self._results.fail(self._pending.popleft(), reason)

    def _end_if_done(self) -> None:
        is_done = not self._pending and not self._failures.is_waiting
        if self._is_closing and is_done and not any(one.sent for one in self._workers.all()):
            self._workers.end(now=False)

    def _give_up(self, reason: BaseException) -> None:
        """End, with this reason for every task."""
        with self._lock:
            self._refusal = reason
        if not self.ready.done():
            self.ready.set_exception(reason)
        self._fail_pending(reason)
        self._is_closing = True
        self._workers.end(now=True)

    def _on_process_end(self) -> None:
        assert self._process is not None, "it has ended"
        how = self._process.wait()
        if self._workers.is_ending or not self.ready.done():
            if not self.ready.done():
                self.ready.set_exception(HkrunnerError(f"hkrunner's supervising process ended {how}"))
            self._loop.stop()
            return
        self._on_process_lost(how)

    def _on_process_lost(self, how: str) -> None:
        """Fail the tasks that had begun, and go on with another supervising process."""
        self._failures.lose_process()
        message = f"RUNNER_ERROR: hkrunner's supervising process ended {how}, and the workers with it"
        failure = Failure("RUNNER_ERROR", message)
        for task in self._workers.lose_process():
            self._results.fail(task, failure)
        self._workers.losses += 1
        if self._workers.losses > LOSSES_MAX:
            self._give_up(HkrunnerError(message))
            self._loop.stop()
        else:
            self._start_process()
