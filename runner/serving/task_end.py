"""The end of a task: its final usage, its record, its answer, and what becomes of the child that had it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...sandbox.linux import process_tree
from ...sandbox.parent.child_handle import Child
from ...sandbox.shared.outcome import Cause, Exit, report
from ..io.loop import Loop
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..protocol.task_state import Event, State
from ..settings.settings import Settings
from .active_task import ActiveTask
from .child_pool import ChildPool
from .leak_watch import LeakWatch
from .log_redirect import LogRedirect
from .notices import Notices
from .streaming import Streaming
from .task_control import TaskControl
from .task_handover import TaskHandover
from .task_opener import TaskOpener
from .task_usage import FINAL_WAIT_S, TaskUsage
from .worker_replies import WorkerReplies

#: Wait this long for the warden to have ended what a task has left; given CPU time, it takes 20 ms at most.
ENDED_WAIT_S = 5.0


class TaskEnd:
    """Ends the current task."""

    def __init__(
        self,
        *,
        loop: Loop,
        settings: Settings,
        control: TaskControl,
        pool: ChildPool,
        replies: WorkerReplies,
        opener: TaskOpener,
        handover: TaskHandover,
        redirect: LogRedirect | None,
        notices: Notices,
        streaming: Streaming,
        on_result: Callable[[Result], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._control = control
        self._pool = pool
        self._replies = replies
        self._opener = opener
        self._handover = handover
        self._redirect = redirect
        self._notices = notices
        self._streaming = streaming
        self._on_result = on_result
        self._leaks = LeakWatch()
        self._is_local = settings.local_run.is_local
        #: Whether a program gets no task after one of a stream: it was told to end, or has its sockets still.
        #: In a local pipeline no task follows.
        self._replaces_streaming = bool(settings.code.argv) and not streaming.is_local

    def measure(self) -> None:
        """Ask for the final usage of a task that lasted, or has left something that is to be ended."""
        control, task = self._control, self._control.task
        assert task is not None, "the table asks for this during a task only"
        usage, failure = task.usage, task.failure
        if self._settings.serving.storage is not None:
            if control.state is State.ANSWERED and failure is None and not task.storing:
                control.step(Event.MUST_STORE)  # after which this is called again
                return
            if usage is not None and not usage.is_of(self._pool.child):
                usage = None  # the child has gone while its result was stored
        # Only the warden knows whether memory was refused just before.
        is_memory = task.limit_bytes is not None and (
            failure is not None or (usage is not None and not usage.is_watched and usage.was_near_limit)
        )
        ends = self._settings.serving.end_children and usage is not None and self._end_others(usage)
        if usage is None or not (usage.is_watched or is_memory or ends):
            control.step(Event.USAGE_KNOWN)
            return
        wait_s = ENDED_WAIT_S if ends else FINAL_WAIT_S
        task.usage_deadline = self._loop.after(wait_s, lambda: control.step(Event.USAGE_KNOWN))
        usage.ask_final()

    def _end_others(self, usage: TaskUsage) -> bool:
        """Have the warden end what the task may have left; return whether it does.

        Its answer about the usage then says that it has done so. The worker's answer waits for that: the
        warden cannot tell what the next task starts from what this one has left.
        """
        child = self._pool.child
        if child is None:
            return False
        # A brief task is not measured, but the child tells what runs below it. Nobody tells what runs below
        # a helper of Python's own, or below a program in another language.
        if not (usage.is_watched or child.still_running or child.may_run_more or child.helpers != []):
            return False
        usage.ask_final()  # what is ended now counts
        child.end_others()
        child.may_run_more = True
        child.still_running = tuple(one for one in child.still_running if one.startswith("thread "))
        return True

    def post_answer(self) -> None:
        """End the task with what the child has answered."""
        task = self._control.task
        assert task is not None, "the child has answered for it"
        if task.failure is None:
            held = task.usage.held_back if task.usage is not None else None
            if held is not None and task.limit_bytes is not None:
                from .memory_advice import refused_all_the_same  # see below

                limits, peak = self._settings.limits, task.peak()
                task.problems.append(refused_all_the_same(held, limits, task.limit_bytes, peak_bytes=peak))
            if task.storing:
                self._close(task, "succeed", answer=partial(self._replies.stored, task.storing))
            else:
                answer = partial(self._replies.answer, task.answer, task.answer_blob)
                self._close(task, "succeed", answer=answer)
        else:
            from .process_advice import explain_refused_process  # late: most runs have nothing to explain

            failure, limits, printed = task.failure, self._settings.limits, task.last_lines()
            if task.limit_bytes is not None:
                from .memory_advice import explain_refusal  # late, and its patterns take 2 ms

                held = task.usage.held_back if task.usage is not None else None
                failure = explain_refusal(
                    failure, limits, task.limit_bytes, task.peak, held=held, printed=printed
                )
            child = self._pool.child
            self._fail(
                task,
                explain_refused_process(failure, limits, child.pid if child is not None else None, printed),
            )

    def post_death(self) -> None:
        """End the task with how its child ended."""
        task = self._control.task
        assert task is not None and task.exit is not None, "the child's end was noted before the event"
        exit = task.exit
        during = "before answering" if exit.loaded else "during import"
        from .process_advice import explain_refused_process  # late, as above

        failure = Failure(exit.error_code, _report_of(task, exit, during), exit.stack)
        self._fail(task, explain_refused_process(failure, self._settings.limits, None, exit.last_lines))

    def post_stopped(self) -> None:
        """End the task as stopped; without a task, only tell the worker so."""
        task = self._control.task
        if task is None:
            self._replies.answer(self._replies.stopped)
        else:
            answer = partial(self._replies.answer, self._replies.stopped)
            failure = _stop_failure(task)
            status = _status_in_order(task, failure) if self._streaming.is_local else "stopped"
            self._close(task, status, failure, answer=answer)

    def record_stopped(self) -> None:
        """End the task, if there is one, as stopped. The worker wants no answer."""
        task = self._control.task
        if task is not None:
            self._close(task, "stopped", _stop_failure(task))

    def _fail(self, task: ActiveTask, failure: Failure) -> None:
        answer = partial(self._replies.answer, self._replies.failed(failure))
        self._close(task, "failed", failure, answer=answer)

    def _close(
        self,
        task: ActiveTask,
        status: str,
        failure: Failure | None = None,
        *,
        answer: Callable[[], None] | None = None,
    ) -> None:
        """End the task: all about it is on disk, then the answer leaves, then the child is looked after.

        The answer of a brief task leaves as soon as its record is complete.
        """
        if task.lost_thread and (failure is None or task.lost_thread not in failure.message):
            task.problems.append(task.lost_thread)
        usage = task.usage
        if usage is not None and usage.held_back_before is not None and usage.held_back is None:
            from .memory_advice import refused_all_the_same  # late, as above

            limits, limit = self._settings.limits, task.limit_bytes or 0
            told = refused_all_the_same(usage.held_back_before, limits, limit, is_before=True)
            task.problems.append(told)
        if task.ids is None:
            self._opener.open_late(task)
        self._handover.send_kept_begin()
        child = self._pool.child
        if usage is not None and not usage.is_of(child):
            child = None  # it has died while its result was stored, and the next one is there
        # Whether nothing that it has printed has to be on disk or shown before the answer.
        drains_late = task.record is None and self._redirect is None and not self._is_local
        if child is not None and not drains_late:
            child.drain_output()
        if self._redirect is not None:
            self._redirect.forget()
        self._replies.task_ended()
        duration_s = self._loop.clock() - task.began
        if answer is not None:
            self._replies.last_answered = (task.name, task.record)
            if not self._is_local and (task.record is None or task.record_brief(status, duration_s)):
                answer()
                answer = None
        if child is not None and drains_late:
            child.drain_output()
        result = task.close(status, failure, duration_s, with_output=self._is_local)
        self._control.task = None
        if task.has_stream:
            self._streaming.task_ended(status)
        if answer is not None:
            answer()
        if child is not None:
            self._pool.served += 1
            self._look_after(child, task, result)
        self._on_result(result)
        self._opener.prepare_next()

    def _look_after(self, child: Child, task: ActiveTask, result: Result) -> None:
        """Tell what the task has left running, warn of a leak, and replace a child that has served enough."""
        usage = task.usage
        left = usage.processes - 1 if usage is not None and not self._settings.serving.end_children else 0
        if left > 0:  # a helper of Python's own is none that the task has left
            below = process_tree.descendants(child.pid)
            left -= sum(process_tree.is_helper(one, child.helpers) for one in below)
        if left > 0:
            self._notices.task.left_running(result.task, left)
        served = self._pool.served
        if result.limit_bytes is not None:
            leak = self._leaks.look(served, result, usage.stays_bytes if usage is not None else 0)
            if leak is not None:
                self._notices.task.leak(leak)
        recycle = self._settings.serving.recycle_after
        if self._control.state is not State.IDLE:
            pass  # everything ends, or the next task has come
        elif recycle is not None and served >= recycle:
            self._notices.child.recycled(served)
            self._pool.recycle()
        elif self._replaces_streaming and task.has_stream and result.status != "failed":
            self._pool.release(ask=True)
        self._pool.task_ended()


def _status_in_order(task: ActiveTask, failure: Failure | None) -> str:
    """Return the status of a stopped task: of a local stream that ends in order, a stop is the usual end."""
    exit = task.exit
    was_cut = exit is not None and exit.cause in (Cause.STOPPED, Cause.INTERRUPTED, Cause.EXITED)
    if was_cut or not task.stops_in_order:
        return "stopped"
    return "succeed" if failure is None else "failed"


def _stop_failure(task: ActiveTask) -> Failure | None:
    """Return the note about a stopped task: that it had to be killed.

    What it raises once it is stopped follows from the stop; but not in a stream that ends in order.
    """
    exit = task.exit
    if exit is None:
        return task.failure if task.stops_in_order else None
    was_killed = exit.cause in (Cause.STOPPED, Cause.INTERRUPTED)
    if was_killed or (task.stops_in_order and exit.cause is not Cause.EXITED):
        return Failure(exit.error_code, _report_of(task, exit))
    return None


def _report_of(task: ActiveTask, exit: Exit, during: str = "before answering") -> str:
    """Return how the child of this task ended, and what of the task may be the reason."""
    text = report(exit, during=during)
    if not task.lost_thread:
        return text
    first, line, rest = text.partition("\n")
    return f"{first}\nbefore that, {task.lost_thread}{line}{rest}"
