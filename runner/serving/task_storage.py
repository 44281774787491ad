"""Storage v3: has the storage process read a task's input, write its result, and carry its calls over.

    worker -> initialize -> storage process -> the same with its values -> child
    child -> result -> storage process -> `storing` and `done` -> worker
    child <-> calls of the code API and their answers <-> storage process <-> worker

The storage process takes one request after the other, so a result follows the calls that were made before it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from ...sandbox.parent.child_handle import Child
from ...sandbox.shared.message_format import Memfd, Wire
from ...sandbox.shared.outcome import Cause
from ...sandbox.shared.storage_messages import (
    CarryAnswer,
    CarryCall,
    CheckInput,
    FetchInput,
    ForTask,
    ForWorker,
    InputFetched,
    RequestFailed,
    ResumeTask,
    StorageAnswer,
    StoreResult,
)
from ..link.answer_blob import AnswerBlob
from ..link.connection import WorkerMessage
from ..link.message_memory import MessageMemory
from ..protocol.messages import Failure
from ..protocol.task_state import HAS_ANSWERED, WORKING, Event
from ..storage.client import StorageClient
from .active_task import ActiveTask
from .child_pool import ChildPool
from .run_context import RunContext
from .task_control import TaskControl
from .worker_replies import WorkerReplies

#: With this many calls at the storage process, the child waits: each may have a descriptor in this process.
CALLS_MAX = 64


class TaskStorage:
    """What the current task needs of the storage."""

    def __init__(
        self,
        context: RunContext,
        control: TaskControl,
        pool: ChildPool,
        replies: WorkerReplies,
    ) -> None:
        settings, output = context.settings, context.output
        assert settings.serving.storage is not None, "only with storage v3"
        encodings = (settings.serving.encoding, settings.task_encoding, settings.serving.storage.encoding)
        self._loop = context.loop
        self._client = StorageClient(
            context.loop,
            settings.serving.storage,
            encodings,
            checks_later=not settings.code.argv,  # a program may not say that it cannot read its input
            on_note=lambda text: output.say(f"◌ storage: {text}"),
            on_serving=replies.serving,
        )
        self._place = settings.serving.storage.place
        self._output = output
        self._control = control
        self._pool = pool
        self._replies = replies
        self._paused: Child | None = None  #: the child that waits until fewer of its calls are there

    def begin(self) -> None:
        """Start the storage process ahead of the first task. Raises OSError and MemoryError."""
        self._client.begin()
        self._output.say(f"● storage: {self._place}")

    def close(self) -> None:
        """End the storage process."""
        self._client.close()

    # ---- the input and the result

    def fetch(self) -> None:
        """Have the input of the current task completed."""
        self._client.cancel()  # what is left of a task that was given up
        self._resume()
        self._client.task = None
        task, message = self._task(), self._task().message
        assert message is not None, "no child has begun the task"
        self._ask(task, FetchInput, lambda: _wire_of(message), self._fetched)
        self._loop.expect("input")  # a small one is there in no time

    def _ask(
        self,
        task: ActiveTask,
        what: type[FetchInput | StoreResult],
        wire: Callable[[], Wire],
        on_answer: Callable[[ActiveTask, StorageAnswer], None],
        *,
        again: bool = False,
    ) -> None:
        """Ask for the task in its present state; if the process has ended, ask the next one, once."""
        state = self._control.state

        def answered(answer: StorageAnswer) -> None:
            if task is not self._control.task or self._control.state is not state:
                _drop(answer)
            elif isinstance(answer, RequestFailed) and not answer.id and not again:
                self._ask(task, what, wire, on_answer, again=True)
            else:
                on_answer(task, answer)

        self._client.ask(what, wire(), answered)

    def _fetched(self, task: ActiveTask, answer: StorageAnswer) -> None:
        if isinstance(answer, RequestFailed):
            self._not_fetched(task, answer.text, answer.details)
            return
        assert isinstance(answer, InputFetched), "that was asked for"
        try:
            message = _message_of(answer.wire)
        except OSError as error:  # `ulimit -v`, most likely
            self._not_fetched(task, f"no memory for an input of {answer.size:,} bytes: {error.strerror}")
            return
        task.names = answer.names
        self._client.task = ResumeTask(answer.names, answer.save_paths)
        task.replace_message(message)
        self._control.step(Event.FETCHED)
        if task.is_started_early and task is self._control.task:
            self._control.step(Event.START)

    def _not_fetched(self, task: ActiveTask, text: str, details: str = "") -> None:
        task.failure = Failure("STORAGE_READ_FAILED", f"STORAGE_READ_FAILED: {text}", details)
        self._control.step(Event.STORAGE_FAILED)

    def explain(self, task: ActiveTask, child: Child) -> None:
        """Fail the task, whose child cannot read its input, with the reason if that is an object."""
        task.unread_by = child
        self._client.ask(CheckInput, b"", partial(self._explained, task, child))

    def _explained(self, task: ActiveTask, child: Child, answer: StorageAnswer) -> None:
        if task is not self._control.task or child is not self._pool.child:
            return  # another child may have got the task since
        if self._control.state in HAS_ANSWERED:
            return  # its child has answered all the same
        if isinstance(answer, ForTask) and isinstance(answer.wire, bytes) and answer.wire:
            text = f"STORAGE_READ_FAILED: {answer.wire.decode()}"
            task.failure = Failure("STORAGE_READ_FAILED", text)
        self._control.step(Event.CHILD_FAILED)

    def store(self) -> None:
        """Have the result of the current task written."""
        task = self._task()
        self._ask(task, StoreResult, task.answer_wire, self._stored)
        self._loop.expect("stored")  # a small result is written in no time

    def _stored(self, task: ActiveTask, answer: StorageAnswer) -> None:
        if isinstance(answer, RequestFailed):
            text = f"STORAGE_WRITE_FAILED: {answer.text}"
            task.failure = Failure("STORAGE_WRITE_FAILED", text, answer.details)
            self._control.step(Event.STORAGE_FAILED)
            return
        assert isinstance(answer, ForWorker) and isinstance(answer.wire, bytes), "`storing` is small"
        task.storing = answer.wire
        self._control.step(Event.STORED)

    def _task(self) -> ActiveTask:
        task = self._control.task
        assert task is not None, "the table asks for this during a task only"
        return task

    # ---- the code API

    def call(self, child: Child, task: ActiveTask, wire: Wire) -> None:
        """Carry a call of the child over to the worker; a memfd in `wire` is closed."""
        self._client.ask(CarryCall, wire, partial(self._called, task))
        if isinstance(wire, Memfd):
            os.close(wire.fd)  # the client has a descriptor of its own
        if self._client.waiting >= CALLS_MAX:
            self._paused = child
            child.listen(False)

    def _resume(self) -> None:
        """Read the messages of the child again, if it waits."""
        child, self._paused = self._paused, None
        if child is not None:
            self._replies.resume(child)

    def answer(self, task: ActiveTask, message: WorkerMessage) -> None:
        """Carry an answer of the worker over to the child."""
        self._client.ask(CarryAnswer, _wire_of(message), partial(self._called, task))

    def _called(self, task: ActiveTask, answer: StorageAnswer) -> None:
        self._pass_on(task, answer)
        if self._client.waiting <= CALLS_MAX // 2:
            self._resume()

    def _pass_on(self, task: ActiveTask, answer: StorageAnswer) -> None:
        child = self._pool.child
        if task is not self._control.task or self._control.state not in WORKING or child is None:
            _drop(answer)
        elif isinstance(answer, RequestFailed):
            if self._control.state in HAS_ANSWERED:
                return  # it does not wait for the call
            # The code would wait for the call for ever.
            text = f"STORAGE_READ_FAILED: a call of the code API is lost: {answer.text}"
            task.failure = Failure("STORAGE_READ_FAILED", text, answer.details)
            self._pool.abandon(Cause.REPLACED)
            self._control.step(Event.CHILD_FAILED)
        elif isinstance(answer, ForTask):
            child.reply(task.number, answer.wire)
            _drop(answer)
        elif isinstance(answer.wire, Memfd):
            self._replies.call(b"", AnswerBlob(answer.wire.fd, answer.wire.size))
        else:
            self._replies.call(answer.wire)


def _wire_of(message: WorkerMessage) -> Wire:
    return message.data if message.blob is None else Memfd(message.blob.fd, message.blob.size)


def _message_of(wire: Wire) -> WorkerMessage:
    if isinstance(wire, Memfd):
        return WorkerMessage(b"", MessageMemory.adopt(wire.fd, wire.size))
    return WorkerMessage(wire)


def _drop(answer: StorageAnswer) -> None:
    if not isinstance(answer, RequestFailed) and isinstance(answer.wire, Memfd):
        os.close(answer.wire.fd)
