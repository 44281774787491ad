"""Serves the streams of tasks: what the worker, the child and the socket process say of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...sandbox.parent.child_handle import Child
from ...sandbox.shared.message_format import Memfd
from ...sandbox.shared.outcome import Cause
from ...sandbox.shared.stream_messages import (
    AskStream,
    StreamRefused,
    StreamStage,
    StreamStatistics,
    UseStream,
)
from ..io.loop import Loop
from ..protocol import encoding, messages
from ..protocol.messages import Failure
from ..protocol.task_state import TAKES_STATISTICS, Event
from ..settings.settings import Settings
from .active_task import ActiveTask
from .notices import ChildNotices
from .task_control import TaskControl
from .worker_replies import WorkerReplies

if TYPE_CHECKING:
    from ..streaming.task_streams import TaskStreams

#: HKube waits this long for a node that is stopped gracefully, if the node keeps sending `stopping`.
DRAIN_S = 600.0
#: In a local pipeline, queued messages are handed out for at most this long at the end.
LOCAL_END_S = 1.0
#: Items of discovery updates that are kept for a task that is not read yet.
CHANGES_MAX = 10_000
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
        settings: Settings,
    ) -> None:
        self._loop = loop
        self._control = control
        self._replies = replies
        self._notices = notices
        serving, limits = settings.serving, settings.limits
        #: Without storage v3, HKube's worker sends no streaming task.
        self._is_served = serving.storage is not None or serving.stream_port is not None
        self._port = serving.stream_port
        #: Whether the worker is a part of hkrunner, and takes anything.
        self.is_local = self._port is not None
        #: Longest time that a message may take; None: any.
        self._message_s = limits.task_timeout_s if limits.enforced else None
        #: Whether the algorithm is a program: it has the sockets of its streams itself.
        self._is_program = bool(settings.code.argv)
        self._encoding = settings.task_encoding
        self._changes: list[Any] = []  #: discovery updates for a program that has not read its task yet
        self._queued = 0  #: messages that a program has for the next nodes, when it said so last
        self._child: Child | None = None  #: of the streaming task
        self._streams: TaskStreams | None = None
        #: Called at each stage of the end of a task: "quiesced", "draining", "drained".
        self.on_stage: Callable[[str], None] = lambda stage: None

    def ask(self, child: Child, task: ActiveTask, message: AskStream) -> None:
        """Give the child of a streaming task its data socket."""
        number = task.number
        if self._is_program:
            self._begin_program(child, task)
            return
        if not self._is_served:
            # HKube's worker sends no such task under v1: it is its debug server, which carries the messages.
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

    def _begin_program(self, child: Child, task: ActiveTask) -> None:
        task.has_stream = True
        self._child = child
        if task.timeout is not None:
            task.timeout.cancel()
        changes, self._changes = self._changes, []
        if changes:
            self.parents_changed(changes)

    def statistics_of(self, child: Child, task: ActiveTask, message: StreamStatistics) -> None:
        """A program has said how many messages it has sent."""
        self._queued = sum(item["queueSize"] for item in message.items)
        self._statistics(message.items)

    def stage_of(self, child: Child, task: ActiveTask, message: StreamStage) -> None:
        """A program takes too long for a message."""
        self._stage(message.stage)

    def _need_streams(self) -> TaskStreams:
        if self._streams is None:
            from ..streaming.task_streams import TaskStreams  # late: most tasks are in batch pipelines

            self._streams = TaskStreams(
                self._loop,
                port=self._port,
                on_statistics=self._statistics,
                message_s=self._message_s or 0.0,
                on_stage=self._stage,
                on_problem=self.problem,
                on_lost=self._lost,
            )
        return self._streams

    def parents_changed(self, changes: object) -> None:
        """The worker has sent a discovery update."""
        task = self._control.task
        if not self._is_program:
            self._need_streams().update_parents(changes)
        elif task is not None and task.has_stream and self._child is not None:
            told = {"command": messages.DISCOVERY, "data": changes}
            self._child.reply(task.number, encoding.encode(self._encoding, told))
        elif isinstance(changes, list):
            self._changes = [*self._changes, *changes][-CHANGES_MAX:]

    def _stage(self, stage: str) -> None:
        if stage == "overdue":
            if self._child is not None and self._message_s is not None:  # any program may say so
                limit = f"{self._message_s:.12g} s for one message of the stream"
                self._child.kill(Cause.TASK_TIMEOUT, limit)
        else:
            self.on_stage(stage)

    def _statistics(self, items: Sequence[Any]) -> None:
        if self._control.state in TAKES_STATISTICS or self.is_local:
            self._replies.statistics(items)

    def problem(self, text: str) -> None:
        """Report a problem at once, and not at the end of the task: it may run for weeks."""
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
        """Read all that the socket process has said; return whether it was lost, which fails the task."""
        return self._streams is not None and self._streams.catch_up()

    def task_ended(self, status: str) -> None:
        """The task is over: succeed, stopped or failed."""
        self._child = None
        self._changes.clear()
        queued, self._queued = self._queued, 0
        if queued and status == "failed":
            self.problem(
                f"about {queued} messages for the next nodes are lost with the program that had them"
            )
        if self._streams is not None:
            self._streams.task_ended(status)

    def end(self, most_s: float, on_ended: Callable[[], None]) -> None:
        """Call back once no socket process is left; what is queued is handed out for at most this long."""
        if self._streams is None:
            on_ended()
        else:
            # In a local pipeline no other replica comes, which might take it.
            self._streams.end(min(most_s, LOCAL_END_S) if self.is_local else most_s, on_ended)
