"""Serves the streams of tasks: what the worker, the child and the socket process say of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...sandbox.parent.child_handle import Child
from ...sandbox.shared.message_format import Memfd
from ...sandbox.shared.outcome import Cause
from ...sandbox.shared.stream_messages import AskStream, StreamRefused, UseStream
from ..io.loop import Loop
from ..protocol.messages import Failure
from ..protocol.task_state import TAKES_STATISTICS, Event
from .active_task import ActiveTask
from .notices import ChildNotices
from .task_control import TaskControl
from .worker_replies import WorkerReplies

if TYPE_CHECKING:
    from ..streaming.task_streams import TaskStreams

#: HKube waits so long for a node that is stopped gracefully, as long as it says `stopping`.
DRAIN_S = 600.0
#: Problems that the record of one task keeps.
PROBLEMS_MAX = 20


class Streaming:
    """The streams of one supervisor; nothing is imported or started before the first task that has one."""

    def __init__(
        self,
        loop: Loop,
        control: TaskControl,
        replies: WorkerReplies,
        notices: ChildNotices,
        *,
        is_served: bool,
        message_s: float | None,
    ) -> None:
        """`is_served`: whether the worker speaks storage v3, without which it sends no streaming task.

        `message_s`: longest time that a message may take; None: any.
        """
        self._loop = loop
        self._control = control
        self._replies = replies
        self._notices = notices
        self._is_served = is_served
        self._message_s = message_s
        self._child: Child | None = None  #: of the streaming task
        self._streams: TaskStreams | None = None
        #: Called when the end of a task gets on: "quiesced", "draining", "drained".
        self.on_stage: Callable[[str], None] = lambda stage: None

    def ask(self, child: Child, task: ActiveTask, message: AskStream) -> None:
        """Give the child of a streaming task its data socket."""
        number = task.number
        if not self._is_served:
            # A worker sends no such task under v1: it is HKube's debug server, which carries the messages.
            child.send(number, StreamRefused(""))
            return
        task.has_stream = True
        self._child = child
        if task.timeout is not None:
            task.timeout.cancel()  # a streaming task has no end: the limit is for each message

        def answer(data: socket.socket | None, problem: str) -> None:
            if self._control.task is task:
                refused = StreamRefused(problem)
                child.send(number, refused if data is None else UseStream(Memfd(data.fileno(), 0)))

        self._need_streams().ask(message, answer)

    def _need_streams(self) -> TaskStreams:
        if self._streams is None:
            from ..streaming.task_streams import TaskStreams  # late: most tasks are in batch pipelines

            self._streams = TaskStreams(
                self._loop,
                on_statistics=self._statistics,
                message_s=self._message_s or 0.0,
                on_stage=self._stage,
                on_problem=self.problem,
                on_lost=self._lost,
            )
        return self._streams

    def parents_changed(self, changes: object) -> None:
        """The worker has sent a discovery update."""
        self._need_streams().update_parents(changes)

    def _stage(self, stage: str) -> None:
        if stage == "overdue" and self._child is not None:
            self._child.kill(Cause.TASK_TIMEOUT, f"{self._message_s:g} s for one message of the stream")
        else:
            self.on_stage(stage)

    def _statistics(self, items: Sequence[Any]) -> None:
        if self._control.state in TAKES_STATISTICS:
            self._replies.statistics(items)

    def problem(self, text: str) -> None:
        """Say at once what the user must know of: a streaming task may run for weeks."""
        task = self._control.task
        self._notices.problem(text)
        if task is not None and len(task.problems) < PROBLEMS_MAX:
            task.problems.append(text)

    def _lost(self, how: str) -> None:
        """The socket process has ended under a task: the task fails, and the next one has another child."""
        task = self._control.task
        if task is not None:
            task.failure = Failure("STREAM_LOST", f"STREAM_LOST: {how}; what was queued there is lost")
            self._control.step(Event.CHILD_QUITS)

    def catch_up(self) -> bool:
        """Take what was said of the stream before the child's last message; return whether the task cannot
        go on, which is said in a moment."""
        return self._streams is not None and self._streams.catch_up()

    def task_ended(self, status: str) -> None:
        """The task is over: succeed, stopped or failed."""
        self._child = None
        if self._streams is not None:
            self._streams.task_ended(status)

    def end(self, most_s: float, on_ended: Callable[[], None]) -> None:
        """Call back once no socket process is left."""
        if self._streams is None:
            on_ended()
        else:
            self._streams.end(most_s, on_ended)
