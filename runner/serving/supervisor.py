"""Serves one worker with one algorithm: puts the parts together, and does what the table of a task says.

    worker -ws-> Link -> WorkerMessageHandler -> TaskControl -> TaskHandover -> Child -> its main thread
    worker <-ws- Link <- WorkerReplies <- TaskEnd <- TaskControl <- ChildMessageHandler <- Child

protocol/task_state.TABLE says what happens in which state. HKube's messages carry no task id, so each task
has a running number: what a child says with another number belongs to a task that is over, and is dropped.
A child that is given up is killed in the background, and nothing of it is read any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...sandbox.codec import SOCKET_IO
from ...sandbox.shared.outcome import Cause, Exit, report
from ..io.loop import Timer
from ..link.connection import Link, WorkerMessage
from ..link.frames import prepare_masking
from ..protocol import encoding
from ..protocol.messages import Failure
from ..protocol.result import Result
from ..protocol.task_state import ENDING, Action, Event, State
from .child_messages import ChildMessageHandler
from .child_pool import ChildPool
from .log_redirect import LogRedirect
from .notices import Notices
from .run_context import RunContext
from .streaming import DRAIN_S, Streaming
from .task_control import TaskControl
from .task_end import TaskEnd
from .task_handover import TaskHandover
from .task_opener import TaskOpener
from .worker_messages import WorkerMessageHandler
from .worker_replies import WorkerLink, WorkerReplies

if TYPE_CHECKING:
    from .task_storage import TaskStorage


#: How often it is asked, at the end, whether an answer has been sent.
SENT_EACH_S = 0.01
#: Time from the beginning of a connection until modules are imported that the first answer or failure needs:
#: by then the connection is there, while the code still loads.
IMPORT_S = 0.01


@dataclass
class Hooks:
    """Callbacks of the code that made the supervisor."""

    on_result: Callable[[Result], None] = lambda result: None
    on_loaded: Callable[[], None] = lambda: None
    on_load_failed: Callable[[Failure], None] = lambda failure: None
    on_given_up: Callable[[str], None] = lambda reason: None
    #: Everything has ended; without this callback the loop is stopped.
    on_finished: Callable[[], None] | None = None


class Supervisor:
    """Serves one worker with one algorithm until the end is asked for."""

    def __init__(self, context: RunContext, hooks: Hooks, pool: ChildPool | None = None) -> None:
        """`pool`: with the serving child, if that was started already."""
        loop, settings, where, output, store = context
        self._loop = loop
        self._settings = settings
        self._store = store
        self._hooks = hooks
        self._grace: Timer | None = None
        self._was_shut_down = False
        self._hurries = False  #: whether the end was asked for twice
        #: Until when the end waits for an answer that is being sent.
        self._sends_until = 0.0
        #: Why the connection is closed in the middle of a task, if the worker has not asked for the end. The
        #: task gets no answer then: `stopped` would make it succeed, and after `errorMessage` HKube would not
        #: repeat it as it repeats the task of a lost pod (OnCrash).
        self._cut_short = ""
        notices = self._notices = Notices(output, settings, where.shown, loop.clock)
        control = self._control = TaskControl(notices.task)
        if pool is None:
            pool = context.child_pool()
        self._pool = pool
        replies = self._replies = WorkerReplies(loop, control, pool, settings.serving.encoding)
        redirect = (
            LogRedirect(replies.log_demand, replies.log_lines) if settings.serving.redirect_logs else None
        )
        streaming = self._streaming = Streaming(loop, control, replies, notices.child, settings)
        streaming.on_stage = self._on_stream_stage
        self._drains = False  #: whether the stop waits for a stream
        opener = TaskOpener(settings, where, store, notices.task)
        self._handover = TaskHandover(loop, settings, control, pool, opener)
        self._storage = _storage(context, control, pool, replies)
        self._end = TaskEnd(
            loop=loop,
            settings=settings,
            control=control,
            pool=pool,
            replies=replies,
            opener=opener,
            handover=self._handover,
            redirect=redirect,
            notices=notices,
            streaming=streaming,
            on_result=hooks.on_result,
        )
        storage = self._storage
        self._worker_messages = WorkerMessageHandler(
            control=control,
            pool=pool,
            replies=replies,
            opener=opener,
            notices=notices.worker,
            streaming=streaming,
            wire_encoding=settings.serving.encoding,
            storage=storage,
            on_given_up=hooks.on_given_up,
        )
        pool.listen(
            ChildMessageHandler(
                control=control,
                pool=pool,
                replies=replies,
                handover=self._handover,
                redirect=redirect,
                output=output,
                notices=notices,
                streaming=streaming,
                limits=settings.limits,
                storage=storage,
                on_loaded=hooks.on_loaded,
                on_load_failed=hooks.on_load_failed,
            )
        )
        control.actions = self._actions()
        control.actions_with_data = {
            Action.BEGIN: self._handover.begin,
            Action.CHILD_STOP: self._child_stop,
            Action.CHILD_EXIT: self._child_exit,
        }
        if storage is not None:
            control.actions[Action.FETCH] = storage.fetch
            control.actions[Action.STORE] = storage.store

    def _actions(self) -> dict[Action, Callable[[], object]]:
        handover, end, pool, replies = self._handover, self._end, self._pool, self._replies
        return {
            Action.HAND_OVER: handover.hand_over,
            Action.ABANDON: lambda: pool.abandon(Cause.REPLACED),
            Action.RELEASE_CHILD: pool.release,
            Action.CHILD_START: handover.start,
            Action.CHILD_KILL: lambda: self._child_kill(Cause.STOPPED),
            Action.CHILD_INTERRUPT: lambda: self._child_kill(Cause.INTERRUPTED),
            Action.ARM_GRACE: self._arm_grace,
            Action.DISARM_GRACE: self._disarm_grace,
            Action.MEASURE: end.measure,
            Action.POST_INITIALIZED: replies.initialized,
            Action.POST_STARTED: replies.started,
            Action.POST_ANSWER: end.post_answer,
            Action.POST_DEATH: end.post_death,
            Action.POST_STOPPED: end.post_stopped,
            Action.RECORD_STOPPED: end.record_stopped,
            Action.REPLACE: pool.replace,
            Action.FINISH: self._finish,
        }

    # ---- from outside

    def preload(self) -> None:
        """Start the child, so that its code is loaded when the first task comes."""
        ready = self._pool.ready()
        if self._storage is not None:
            # The first task gets the same error, and reports it.
            with contextlib.suppress(OSError, MemoryError):
                self._storage.begin()
        if isinstance(ready, Exit):
            failure = Failure(ready.error_code, report(ready))
            self._loop.after(0, lambda: self._hooks.on_load_failed(failure))

    def connect(self, url: str) -> None:
        """Connect to the worker, and stay connected."""
        link = Link(
            self._loop,
            self._worker_messages,
            url,
            text=encoding.is_text(self._settings.serving.encoding),
            connect_timeout_s=self._settings.serving.connect_timeout_s,
            transport=self._settings.serving.transport,
            with_attachments=self._settings.serving.encoding == SOCKET_IO,
        )
        self._replies.link = link
        link.open()
        self._loop.after(IMPORT_S, _import_for_answers)

    def attach(self, link: WorkerLink) -> None:
        """Serve a worker of this process, which calls on_link_message()."""
        self._replies.link = link

    def on_link_message(self, message: WorkerMessage) -> None:
        """A message of a worker of this process has arrived."""
        self._worker_messages.on_link_message(message)

    def shutdown(self, status: int) -> None:
        """Shut down: the user's stop(), the grace, exit(), no process left. The second call kills."""
        if self._was_shut_down:
            self._hurries = True
            self._pool.kill_leaving()
            self._control.step(Event.KILL_NOW)
            return
        self._was_shut_down = True
        if self.ending:  # the worker has asked before, and exit() runs
            self._control.exit_status = status
            self._notices.task.stopping(None, may_kill=self._may_kill)
            self._disarm_grace()
            self._arm_grace()
            return
        self._control.exit_status = status
        self._control.step(Event.EXIT, {"exitCode": 0})
        task = self._control.task
        if task is not None:  # one whose answer only waited for its usage has got it
            self._cut_short = f"hkrunner was asked to end during task {task.name}"

    @property
    def exit_status(self) -> int:
        """The exit status that was given with the request to end."""
        return self._control.exit_status

    @property
    def samples(self) -> list[tuple[float, float, int, int]]:
        """The samples of the current task (see TaskUsage); empty without a task."""
        task = self._control.task
        return task.usage.samples if task is not None and task.usage is not None else []

    @property
    def ending(self) -> bool:
        """Whether the end was asked for: no answer goes to the worker any more."""
        return self._control.state in ENDING

    # ---- actions

    def _child_stop(self, options: Mapping[str, Any]) -> None:
        child, task = self._pool.child, self._control.task
        assert task is not None, "only a task is stopped"
        self._replies.stop_begins()
        self._notices.task.stopping(task.name, may_kill=self._may_kill)
        task.stop_began = self._loop.clock()
        self._drains = task.stops_in_order = task.has_stream and options.get("forceStop") is False
        if child is not None:
            child.stop(task.number, options)

    def _child_exit(self, options: Mapping[str, Any]) -> None:
        self._drains = False
        task = self._control.task
        if task is not None:
            self._notices.task.stopping(None, may_kill=self._may_kill)
            if task.stop_began is None:
                task.stop_began = self._loop.clock()
        self._pool.drop_spare()
        self._handover.send_kept_begin()
        if self._pool.child is None:
            self._loop.after(0, lambda: self._control.step(Event.CHILD_GONE))
        else:
            self._pool.child.exit(options)

    def _child_kill(self, cause: Cause) -> None:
        if self._pool.child is not None:
            self._pool.child.kill(cause)

    @property
    def _may_kill(self) -> bool:
        """Whether the child is killed when it does not end: for one at a breakpoint, hkrunner waits."""
        return self._pool.child is None or self._pool.child.may_kill

    def _arm_grace(self) -> None:
        if self._may_kill:
            grace_s = DRAIN_S if self._drains else self._settings.serving.grace_s
            self._grace = self._loop.after(grace_s, lambda: self._control.step(Event.GRACE_OVER))

    def _on_stream_stage(self, stage: str) -> None:
        """The usual grace is for the user's code, not for the nodes that take what it has sent."""
        if self._control.state is State.STOPPING and self._drains:
            self._drains = stage == "draining"
            self._disarm_grace()
            self._arm_grace()
            self._drains = True

    def _disarm_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _finish(self) -> None:
        self._pool.drop_spare()
        if not self._pool.is_empty:
            self._pool.on_empty = self._finish  # the last of them comes back here
            return
        self._sends_until = self._loop.clock() + self._settings.serving.grace_s
        self._streaming.end(self._settings.serving.grace_s, self._close)

    def _close(self) -> None:
        link = self._replies.link
        if link is not None:
            # A large one takes a while, and its task counts as done.
            if link.owes_answer and not self._hurries and self._loop.clock() < self._sends_until:
                self._loop.after(SENT_EACH_S, self._close)
                return
            link.close(self._cut_short)
        if self._storage is not None:
            self._storage.close()
        if self._store is not None:
            self._store.close()
        (self._hooks.on_finished or self._loop.stop)()


def _import_for_answers() -> None:
    """Import what the answer to the first task, or to the first failed one, would wait for: 4 ms."""
    with contextlib.suppress(Exception):  # no memory, no descriptor: the failure's own import reports it
        from ...boards.runs import resource_series  # noqa: F401
        from . import process_advice  # noqa: F401

        prepare_masking()


def _storage(
    context: RunContext, control: TaskControl, pool: ChildPool, replies: WorkerReplies
) -> TaskStorage | None:
    if context.settings.serving.storage is None:
        return None
    from .task_storage import TaskStorage  # late: under storage v1 the worker moves inputs and results

    return TaskStorage(context, control, pool, replies)
