"""Sends our messages to the worker in its encoding, and makes the child wait while the worker is slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ...boards.runs.task_record import TaskRecord
from ...sandbox.parent.child_handle import Child
from ..io.loop import Loop
from ..link.answer_blob import AnswerBlob
from ..protocol import encoding, messages
from ..protocol.task_state import TAKES_ALIVE, TAKES_STOPPING, WORKING
from .child_pool import ChildPool
from .log_redirect import LogDemand
from .task_control import TaskControl

#: HKube's worker gives a task or a stop up 10 s after the last `alive` or `stopping`.
SIGN_OF_LIFE_S = 4.0


class WorkerLink(Protocol):
    """The connection to the worker: a link.connection.Link, or its substitute inside this process."""

    url: str
    on_relieved: Callable[[], None] | None

    @property
    def is_open(self) -> bool: ...
    @property
    def owes_answer(self) -> bool: ...
    @property
    def congested(self) -> bool: ...
    def post(
        self,
        data: bytes,
        source: AnswerBlob | None = None,
        *,
        final: bool = False,
        soon: bool = False,
        prelude: bytes = b"",
    ) -> bool: ...
    def worker_spoke(self) -> None: ...
    def clear(self) -> None: ...
    def close(self, cut_short: str = "") -> None: ...


class WorkerReplies:
    """Posts our messages to the link; without a link they are dropped."""

    def __init__(self, loop: Loop, control: TaskControl, pool: ChildPool, wire_encoding: str) -> None:
        self.link: WorkerLink | None = None
        self.connection = 1  #: number of the connection: one more after each that was lost
        #: Name and record of the last task that has an answer.
        self.last_answered: tuple[str, TaskRecord | None] | None = None
        self._control = control
        self._pool = pool
        self._encoding = wire_encoding
        self._sign_of_life = loop.alarm(self._give_sign_of_life)
        self._initialized = encoding.encode(wire_encoding, messages.INITIALIZED)
        self._started = encoding.encode(wire_encoding, messages.STARTED)
        self._alive = encoding.encode(wire_encoding, messages.ALIVE)
        self._stopping = encoding.encode(wire_encoding, messages.STOPPING)
        self._serving = encoding.encode(wire_encoding, messages.SERVING_STATUS)
        self._done = encoding.encode(wire_encoding, messages.DONE)
        #: The final answer of a task that was stopped.
        self.stopped = encoding.encode(wire_encoding, messages.STOPPED)

    def initialized(self) -> None:
        """Post `initialized`."""
        task = self._control.task
        assert task is not None, "only a task can be initialized"
        task.initialized_on = self.connection
        self._post(self._initialized)
        self._sign_of_life.set(SIGN_OF_LIFE_S)

    def started(self) -> None:
        """Post `started`; it may wait a moment, to be sent with the answer of a very short task."""
        self._post(self._started, soon=True)

    def failed(self, failure: messages.Failure) -> bytes:
        """Return the final answer of a task that has failed."""
        return encoding.encode(self._encoding, failure.to_message())

    def answer(self, wire: bytes, blob: AnswerBlob | None = None) -> None:
        """Post the final answer of a task, in the worker's encoding."""
        self._post(wire, blob, final=True)

    def stored(self, storing: bytes) -> None:
        """Post `storing`, which says where the result of the task is, and then its final answer."""
        self._post(self._done, final=True, prelude=storing)

    def serving(self) -> None:
        """Post that other algorithms ask for results: the worker does not pause this one then."""
        self._post(self._serving)

    def call(self, wire: bytes, blob: AnswerBlob | None = None) -> None:
        """Post a message of the code API; dropped unless a task is being worked on."""
        if self._control.state in WORKING:
            self._post(wire, blob)
        elif blob is not None:
            blob.close()

    def progress(self, data: Mapping[str, Any]) -> None:
        """Post the progress of the task, if it is being worked on."""
        if self._control.state in WORKING:
            self._post(encoding.encode(self._encoding, {"command": "progress", "data": data}))

    def statistics(self, items: Sequence[Any]) -> None:
        """Post the statistics of a streaming task; dropped while the worker is slow."""
        if self.link is not None and not self.link.congested:
            self._post(encoding.encode(self._encoding, {"command": "streamingStatistics", "data": items}))

    def log_lines(self, lines: list[str]) -> None:
        """Post lines that the algorithm has printed."""
        self._post(encoding.encode(self._encoding, {"command": "logData", "data": lines}))

    def log_demand(self) -> LogDemand:
        """Return what to do with lines that the algorithm prints now."""
        if self._control.state not in WORKING or self.link is None:
            return LogDemand.IGNORE
        return LogDemand.COUNT if self.link.congested else LogDemand.SEND

    def worker_spoke(self) -> None:
        """Tell the link that the worker has sent what only a worker sends."""
        if self.link is not None:
            self.link.worker_spoke()

    def drop_unsent(self) -> None:
        """Forget what waits to be sent: it belongs to a task that the worker has given up."""
        if self.link is not None:
            self.link.clear()

    def _post(
        self,
        wire: bytes,
        blob: AnswerBlob | None = None,
        *,
        final: bool = False,
        soon: bool = False,
        prelude: bytes = b"",
    ) -> None:
        link = self.link
        if link is None:
            if blob is not None:
                blob.close()
            return
        is_full = link.post(wire, blob, final=final, soon=soon, prelude=prelude)
        if is_full and self._pool.child is not None and link.on_relieved is None:
            self._have_wait(self._pool.child, link)

    def resume(self, child: Child) -> None:
        """Read the messages of a child that has waited; if the worker is slow, once it has taken some."""
        if self.link is not None and self.link.congested:
            self._have_wait(child, self.link)
        else:
            child.listen(True)

    def _have_wait(self, child: Child, link: WorkerLink) -> None:
        """Have the child wait with what it wants to send until the worker has taken some of it."""
        child.listen(False)
        link.on_relieved = lambda: child.listen(True)

    # ---- signs of life

    def stop_begins(self) -> None:
        """Tell the worker from now on that the stop is in progress."""
        self._sign_of_life.set(SIGN_OF_LIFE_S)

    def task_ended(self) -> None:
        """Give no sign of life until the next task."""
        self._sign_of_life.cancel()

    def _give_sign_of_life(self) -> None:
        if self._control.task is None:
            return
        if self.link is not None and self.link.is_open:
            state = self._control.state
            if state in TAKES_ALIVE:
                self._post(self._alive)
            elif state in TAKES_STOPPING:
                self._post(self._stopping)
        self._sign_of_life.set(SIGN_OF_LIFE_S)
