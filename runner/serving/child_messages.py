"""Turns what comes from the children into events of the task: messages, output, samples, their end.

A message carries the number of its task. Those of a task that is over are dropped, and so is everything from
a child that does not serve or is being killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...sandbox.codec.codec import MESSAGE_LIMIT
from ...sandbox.parent.child_handle import Child
from ...sandbox.shared.channel import blob_problem
from ...sandbox.shared.limits import Limits
from ...sandbox.shared.message_format import Memfd, ProcessMessage
from ...sandbox.shared.messages import (
    ApiCall,
    Done,
    EndedProcessesPeak,
    Failed,
    Initialized,
    Loaded,
    LoadFailed,
    Problem,
    Progress,
    Sample,
    StopReturned,
    TaskRead,
)
from ...sandbox.shared.outcome import Cause, Exit, report
from ...sandbox.shared.stream_messages import AskStream, StreamStage, StreamStatistics
from ..console.terminal import Output
from ..link.answer_blob import AnswerBlob
from ..protocol.messages import Failure, progress_data
from ..protocol.task_state import AT_STORAGE, HAS_ANSWERED, MEASURING, NOT_BEGUN, Event, State
from .active_task import ActiveTask
from .child_pool import ChildPool, ChildRole
from .log_redirect import LogRedirect
from .notices import Notices
from .output_tail import OutputTail
from .streaming import PROBLEMS_MAX, Streaming
from .task_control import TaskControl
from .task_handover import TaskHandover
from .worker_replies import WorkerReplies

if TYPE_CHECKING:
    from .task_storage import TaskStorage

#: Longest text of a problem, in characters.
PROBLEM_MAX = 20_000


class ChildMessageHandler:
    """Listens to the children."""

    def __init__(
        self,
        *,
        control: TaskControl,
        pool: ChildPool,
        replies: WorkerReplies,
        handover: TaskHandover,
        redirect: LogRedirect | None,
        output: Output,
        notices: Notices,
        streaming: Streaming,
        limits: Limits,
        storage: TaskStorage | None = None,
        on_loaded: Callable[[], None],
        on_load_failed: Callable[[Failure], None],
    ) -> None:
        self._control = control
        self._pool = pool
        self._replies = replies
        self._handover = handover
        self._redirect = redirect
        self._output = output
        self._notices = notices
        self._streaming = streaming
        self._limits = limits
        #: A child that could not load the code, and why, until it has ended: then it is known whether memory
        #: was refused.
        self._load_failure: tuple[Child, Failure] | None = None
        #: The task that has called sys.exit(), until it is known whether memory was refused to it.
        self._quitting: ActiveTask | None = None
        self._on_loaded = on_loaded
        self._storage = storage
        self._on_load_failed = on_load_failed
        self._held: set[Child] = set()  #: children whose output is not read for now
        self._loading_tail = OutputTail()  #: of what the serving child prints before its code is loaded
        self._of_task: dict[type, Callable[[Child, ActiveTask, Any], None]] = {
            Initialized: self._initialized,
            Done: self._done,
            Failed: self._failed,
            TaskRead: self._task_read,
            ApiCall: self._api_call,
            Progress: self._progress,
            EndedProcessesPeak: self._ended_processes_peak,
            AskStream: streaming.ask,
            StreamStatistics: streaming.statistics_of,
            StreamStage: streaming.stage_of,
        }
        self._of_child: dict[type, Callable[[Any], None]] = {
            Loaded: self._loaded,
            LoadFailed: self._load_failed,
            StopReturned: self._stop_returned,
            Problem: self._problem,
        }

    # ---- messages

    def on_message(self, child: Child, number: int, message: ProcessMessage) -> None:
        """A message of a child has arrived; `number`: of its task, 0 for none."""
        task = self._control.task
        if child is self._pool.child and not child.is_being_killed:
            if task is not None and number == task.number:
                if (of_task := self._of_task.get(type(message))) is not None:
                    of_task(child, task, message)
                    return
                number = 0  # it is of the child
            if not number and (of_child := self._of_child.get(type(message))) is not None:
                of_child(message)
                return
        _drop(message)

    def _task_read(self, child: Child, task: ActiveTask, message: TaskRead) -> None:
        self._handover.task_read(child, task, message.ids)

    def _initialized(self, child: Child, task: ActiveTask, message: Initialized) -> None:
        if task.message is not None:
            self._handover.begun(task, child)  # there was no init() to call
        child.drain_output(once=True)  # what init() printed came before
        self._control.step(Event.CHILD_INITIALIZED)

    def _done(self, child: Child, task: ActiveTask, message: Done) -> None:
        if self._control.state in HAS_ANSWERED:
            _drop(message)  # user code has written into the channel; only the first answer counts
            return
        if task.has_stream:
            self._streaming.catch_up()
        wire = message.wire
        if isinstance(wire, Memfd):
            problem = blob_problem(wire.fd, wire.size)
            if problem is None and wire.size > MESSAGE_LIMIT and self._storage is None:
                problem = f"{wire.size:,} bytes, HKube's worker takes at most {MESSAGE_LIMIT:,}"
            if problem is not None:
                os.close(wire.fd)
                text = f"RESULT_INVALID: the result's memory: {problem}"
                task.failure = Failure("RESULT_INVALID", text)
                self._end_logs(child)
                self._control.step(Event.CHILD_FAILED)
                return
        task.take_answer(wire)
        self._end_logs(child)
        self._control.step(Event.CHILD_DONE)

    def _failed(self, child: Child, task: ActiveTask, message: Failed) -> None:
        if task.unread_by is child:
            return  # the storage process looks for the reason; one request for each would use up descriptors
        if task.has_stream and self._streaming.catch_up():
            return  # the stream was lost: that is reported, and the child's error follows from it
        if self._control.state not in HAS_ANSWERED:
            task.failure = Failure(message.code, message.message, message.details, message.is_deliberate)
        self._end_logs(child)
        if message.ends and self._may_have_been_refused(task):
            assert task.usage is not None, "it was near its limit"
            self._quitting = task
            task.usage.ask_final()
            return
        is_unread = message.code == "RUNNER_ERROR" and task.message is not None
        if is_unread and self._storage is not None and self._control.state in (*NOT_BEGUN, State.RUNNING):
            self._storage.explain(task, child)
            return
        self._control.step(Event.CHILD_QUITS if message.ends else Event.CHILD_FAILED)

    def _may_have_been_refused(self, task: ActiveTask) -> bool:
        """Whether the warden is to be asked if memory was refused, before a failed task is answered."""
        usage, failure = task.usage, task.failure
        if task.limit_bytes is None or usage is None or failure is None:
            return False
        if not (usage.is_watched or usage.was_near_limit):
            return False
        from .memory_advice import may_be_refusal  # late, as in task_end.py

        return may_be_refusal(failure)

    def _quits(self, exit: Exit | None = None) -> None:
        """Answer the task that has called sys.exit(), if any: its usage is known, or its child has ended."""
        task, self._quitting = self._quitting, None
        if task is None or task is not self._control.task:
            return
        if exit is not None and task.usage is not None and exit.held_back is not None:
            task.usage.take_held_back(exit.held_back)
        self._control.step(Event.CHILD_QUITS)

    def _api_call(self, child: Child, task: ActiveTask, message: ApiCall) -> None:
        wire = message.wire
        problem = blob_problem(wire.fd, wire.size) if isinstance(wire, Memfd) else None
        if problem is None and self._storage is not None:
            self._storage.call(child, task, wire)
        elif not isinstance(wire, Memfd):
            self._replies.call(wire)
        elif problem is None:
            self._replies.call(b"", AnswerBlob(wire.fd, wire.size))
        else:
            os.close(wire.fd)
            child.kill(Cause.CHANNEL_BROKEN, f"the memory of a call: {problem}")

    def _progress(self, child: Child, task: ActiveTask, message: Progress) -> None:
        child.drain_output(once=True)  # what the code printed before it is heard before it
        task.progressed(message.value)
        data = progress_data(message.value, message.details)
        self._notices.task.progress(data)
        self._replies.progress(data)

    def _ended_processes_peak(self, child: Child, task: ActiveTask, message: EndedProcessesPeak) -> None:
        if task.usage is not None:
            task.usage.on_ended_processes(message.rss_bytes)

    def _stop_returned(self, message: StopReturned) -> None:
        if message.error:
            task = self._control.task
            self._notices.task.stop_failed(task.name if task is not None else "", message.error)

    def _problem(self, message: Problem) -> None:
        task, child = self._control.task, self._pool.child
        text = message.text[:PROBLEM_MAX]
        if message.thread_lost and task is not None and child is not None:
            task.lost_thread = text  # shown with the end of the task, too
            child.watch(idle=False, thread_lost=True)
        elif task is not None and task.has_stream:
            self._streaming.problem(text)
        elif task is not None and len(task.problems) >= PROBLEMS_MAX:
            return  # the code itself has written into the channel
        elif task is not None:
            task.problems.append(text)  # shown with the end of the task
        else:
            self._notices.child.problem(text)

    def _loaded(self, message: Loaded) -> None:
        child = self._pool.child
        assert child is not None, "the message is the serving child's"
        child.drain_output(once=True)  # what was printed while the code was loaded came before
        self._notices.child.loaded(message.methods, message.python, child.protection)
        self._pool.prepare_spare()
        self._on_loaded()

    def _load_failed(self, message: LoadFailed) -> None:
        """This child ends by itself; the next task tries the code again in a new one."""
        if self._control.state in HAS_ANSWERED:
            return  # the task has its answer; on_exit() reports this child
        failure = Failure(message.code, message.message, message.details, message.is_deliberate)
        child = self._pool.child
        assert child is not None, "the message is the serving child's"
        if self._limits.enforced:
            from .memory_advice import may_be_refusal  # late, as in task_end.py
            from .process_advice import explain_refused_process

            if self._limits.memory_bytes is not None and may_be_refusal(failure):
                self._load_failure = child, failure
                return
            failure = explain_refused_process(failure, self._limits, child.pid)
        self._not_loaded(failure)

    def _explain_load_failure(self, child: Child, exit: Exit) -> None:
        """Say why the code could not be loaded, if this child, which has ended, could not."""
        told, self._load_failure = self._load_failure, None
        if told is None or told[0] is not child:  # the worker gave the task up, and that child with it
            return
        from .memory_advice import explain_refusal
        from .process_advice import explain_refused_process

        limit = self._limits.memory_bytes
        failure = explain_refusal(told[1], self._limits, limit, lambda: exit.peak_bytes, held=exit.held_back)
        self._not_loaded(explain_refused_process(failure, self._limits, exit.pid))

    def _not_loaded(self, failure: Failure) -> None:
        task = self._control.task
        if task is not None:
            task.failure = failure
            task.exit = Exit(Cause.EXITED, loaded=False)
            self._control.step(Event.CHILD_QUITS)
        elif self._control.state is State.IDLE:
            self._control.step(Event.CHILD_QUITS)
            self._on_load_failed(failure)

    # ---- samples

    def on_sample(self, child: Child, sample: Sample) -> None:
        """The warden has measured a child's process tree."""
        task = self._control.task
        if child is not self._pool.child or task is None or task.usage is None:
            return
        task.on_sample(sample)
        self._notices.task.sampled(task.usage.samples)
        if task.usage.is_final and self._quitting is task:
            self._quits()
        elif task.usage.is_final and self._control.state in MEASURING:
            self._control.step(Event.USAGE_KNOWN)

    # ---- output

    def on_output(self, child: Child, stream: str, data: bytes) -> None:
        """A child has printed: add the bytes to the task's record, and pass them on unchanged.

        In this order: what somebody has seen is in the record, whatever becomes of us then.
        """
        is_serving, task = child is self._pool.child, self._control.task
        if is_serving and task is not None:
            task.printed(stream, data)
        self._output.user(stream, data)
        if self._output.holding:
            if not self._held:
                self._output.when_released(self._release_output)
            self._held.add(child)
            child.hold_output(True)
        if not is_serving:
            return
        if self._redirect is not None:
            self._redirect.feed(stream, data)
        if task is None and not child.loaded:
            self._loading_tail.add(data)

    def _release_output(self) -> None:
        held, self._held = self._held, set()
        for child in held:
            child.hold_output(False)

    def _end_logs(self, child: Child | None = None) -> None:
        """Send the last lines of the task before its answer, so that the next task gets none of them."""
        if self._redirect is not None:
            if child is not None:
                child.drain_output()
            self._redirect.end()

    # ---- the end of a child

    def on_ending(self, child: Child) -> None:
        """Have ready what its task's answer will wait for, while its processes are ended and counted."""
        task = self._control.task
        if child is self._pool.child and task is not None and self._control.state is State.RUNNING:
            task.need_series(is_ending=True)  # its answer should not wait for the folder

    def on_exit(self, child: Child, exit: Exit) -> None:
        """Nothing of this child is left."""
        if child is self._pool.child:
            self._explain_load_failure(child, exit)
            self._quits(exit)
        role, control, task = self._pool.gone(child, exit), self._control, self._control.task
        if role is ChildRole.SPARE:
            self._notices.child.died_without_task("spare process", exit)
        elif role is ChildRole.LEAVING and control.state is State.IDLE:
            self._pool.replace()  # it may have called sys.exit() in its task
        if role is not ChildRole.SERVING:
            return
        tail, self._loading_tail = self._loading_tail, OutputTail()
        exit = self._with_last_lines(exit, tail.last_lines() if task is None else task.last_lines())
        if task is not None:
            exit = exit._replace(ran_before=task.ran_before)
        if control.state in (State.IDLE, *MEASURING, *AT_STORAGE):
            # A task that is measured has its answer, which counts whatever became of the child since; one
            # that is at the storage has no child.
            self._died_between_tasks(exit)
        elif task is None:
            self._notices.child.left_behind(exit)
        elif control.state in NOT_BEGUN and self._handover.may_go_to_another(task, exit):
            self._notices.child.died_without_task(f"before task {control.number}", exit)
            task.forget_usage()
            control.step(Event.CHILD_GONE_EARLY)
            return
        else:
            self._end_logs()
            if task.has_stream:
                self._streaming.catch_up()
            task.died(exit, child.began_at)
        control.step(Event.CHILD_GONE)

    def _with_last_lines(self, exit: Exit, printed: tuple[str, ...]) -> Exit:
        exit = exit._replace(last_lines=printed)
        if printed and self._limits.mem_mode == "brake":
            from .memory_advice import explain_exit  # late, as in task_end.py

            exit = explain_exit(exit, self._limits, printed)
        return exit

    def _died_between_tasks(self, exit: Exit) -> None:
        if not exit.loaded:
            self._on_load_failed(Failure(exit.error_code, report(exit, during="during import")))
        elif exit.cause is not Cause.RECYCLED:
            self._notices.child.died_without_task("between two tasks", exit)


def _drop(message: ProcessMessage) -> None:
    """Close what the message holds."""
    if isinstance(message, (Done, ApiCall)) and isinstance(message.wire, Memfd):
        os.close(message.wire.fd)
