"""The streams of the tasks that one hkrunner serves, one at a time: starts and ends their socket process.

A socket process outlives a task that fails: HKube starts the task again, the next child takes its place, and
what was sent or fetched meanwhile is still there. It ends with a task that succeeds or is stopped, and where
another node's task comes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...sandbox.shared.message_format import ProcessMessage
from ...sandbox.shared.stream_messages import (
    AskStream,
    OpenStream,
    StreamProblem,
    StreamStage,
    StreamStatistics,
)
from ..io.loop import Loop, Timer
from .socket_handle import SocketProcessHandle, SocketProcessMissing
from .stream_settings import LOOPBACK, StreamSettings, from_environment

#: Hand out what a stopped task has sent for this long: HKube stops all nodes of a pipeline at once.
AFTER_STOP_S = 1.0
#: Keep the socket process this long after a failed task, which may be started again.
AFTER_FAILURE_S = 600.0
#: Items of discovery updates that are kept for a task whose child has not asked for its stream yet.
CHANGES_MAX = 10_000

Answer = Callable[[socket.socket | None, str], None]


class WaitingTask(NamedTuple):
    """A child that has asked for its stream, and does not have it yet."""

    asked: AskStream
    answer: Answer


class TaskStreams:
    """Gives the child of each streaming task its data socket."""

    def __init__(
        self,
        loop: Loop,
        *,
        port: int | None,
        message_s: float,
        on_statistics: Callable[[Sequence[Any]], None],
        on_stage: Callable[[str], None],
        on_problem: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """`port`: of a node of a local pipeline, on the loopback address; None: HKube's variables name it.

        `message_s`: longest time for a message, 0 for any.

        `on_lost`: the socket process has ended under a task, which cannot go on.
        """
        self._loop = loop
        self._port = port
        self._message_s = message_s
        self._on_statistics = on_statistics
        self._on_stage = on_stage
        self._on_problem = on_problem
        self._on_lost = on_lost
        self._sockets: SocketProcessHandle | None = None
        self._of: AskStream | None = None  #: the stream that the socket process serves
        self._waiting: WaitingTask | None = None  #: until another node's socket process ends
        self._changes: list[Any] = []  #: discovery updates that came before the socket process was started
        self._has_task = False
        self._end: Timer | None = None
        self._on_ended: Callable[[], None] | None = None

    def ask(self, asked: AskStream, answer: Answer) -> None:
        """Give a child its data socket, which is closed here afterwards; or the reason why there is none."""
        self._has_task = True
        if self._end is not None:
            self._end.cancel()
        if self._sockets is not None and (self._of != asked or self._sockets.is_ending):
            self._waiting = WaitingTask(asked, answer)
            self._sockets.end(0.0)
            return
        sockets = self._sockets
        if sockets is None:
            try:
                settings = from_environment(os.environ)
                if self._port is not None:
                    settings = settings._replace(host=LOOPBACK, port=self._port)
                sockets = self._start(asked, settings)
            except (SocketProcessMissing, ValueError) as error:
                answer(None, str(error))
                return
        changes, self._changes = self._changes, []
        if changes:
            sockets.update_parents(changes)
        sockets.when_open(lambda problem: self._answer(sockets, problem, answer))

    def _start(self, asked: AskStream, settings: StreamSettings) -> SocketProcessHandle:
        opens = OpenStream(
            node=asked.node,
            children=asked.children,
            encoding=settings.encoding,
            host=settings.host,
            port=settings.port,
            buffer_bytes=settings.buffer_bytes,
            statistics_s=settings.statistics_s,
            in_turn=asked.in_turn,
            message_s=self._message_s,
        )
        sockets = SocketProcessHandle(self._loop, opens, on_message=self._on_message, on_end=self._ended)
        self._sockets, self._of = sockets, asked
        return sockets

    def _answer(self, sockets: SocketProcessHandle, problem: str, answer: Answer) -> None:
        if problem:
            answer(None, problem)
            return
        with sockets.attach() as data:
            answer(data, "")

    def update_parents(self, changes: object) -> None:
        """Take a discovery update of the worker."""
        if not isinstance(changes, list):
            return
        if self._sockets is None or self._waiting is not None or not self._has_task:
            # Without a task, the process is that of the task before, and may be about to end.
            self._changes += changes
            del self._changes[:-CHANGES_MAX]
        else:
            self._sockets.update_parents(changes)

    def catch_up(self) -> bool:
        """Read all that the socket process has sent so far; return whether it was lost."""
        return self._sockets is not None and self._sockets.catch_up()

    def task_ended(self, status: str) -> None:
        """The task is over: succeed, stopped or failed."""
        self._changes.clear()
        if not self._has_task:
            return
        self._has_task = False
        self._waiting = None
        sockets = self._sockets
        if sockets is None:
            return
        if status == "failed":
            self._end = self._loop.after(AFTER_FAILURE_S, lambda: sockets.end(0.0))
        else:
            sockets.end(AFTER_STOP_S)

    def end(self, most_s: float, on_ended: Callable[[], None]) -> None:
        """Call back once no socket process is left; what is queued is handed out for at most this long."""
        if self._sockets is None:
            on_ended()
            return
        self._on_ended = on_ended
        self._sockets.end(most_s)

    def _on_message(self, message: ProcessMessage) -> None:
        if isinstance(message, StreamStatistics):
            if self._has_task or self._port is not None:  # a local pipeline counts to the end
                self._on_statistics(message.items)
        elif isinstance(message, StreamStage):
            self._on_stage(message.stage)
        elif isinstance(message, StreamProblem):
            self._on_problem(message.text)

    def _ended(self, how: str) -> None:
        self._sockets = None
        if self._end is not None:
            self._end.cancel()
        waiting, self._waiting = self._waiting, None
        if self._on_ended is not None:
            self._on_ended()
        elif waiting is not None:
            self.ask(*waiting)
        elif how and self._has_task:
            self._on_lost(how)
        elif how:
            self._on_problem(how)
