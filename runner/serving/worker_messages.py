"""Turns what comes from the worker into events of the task: its messages, and changes of the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...sandbox.shared.code_api import ANSWERS
from ...sandbox.shared.message_format import Memfd
from ..link.connection import BLOB_MIN, WorkerMessage
from ..protocol import encoding, messages
from ..protocol.task_state import ENDING, WORKING, Event, State
from .child_pool import ChildPool
from .notices import WorkerNotices
from .streaming import Streaming
from .task_control import TaskControl
from .task_opener import TaskOpener
from .worker_replies import WorkerReplies

if TYPE_CHECKING:
    from .task_storage import TaskStorage

#: Largest `serviceDiscoveryUpdate`, which has an item for each replica: they are decoded in the loop.
DISCOVERY_MAX = 16 * 1024 * 1024
#: What only a worker says: unlike an unknown message, it shows that one is there and at work.
_WORKER_SAYS = frozenset((messages.INITIALIZE, messages.START, messages.STOP, messages.EXIT, *ANSWERS))


class WorkerMessageHandler:
    """Listens to the link."""

    def __init__(
        self,
        *,
        control: TaskControl,
        pool: ChildPool,
        replies: WorkerReplies,
        opener: TaskOpener,
        notices: WorkerNotices,
        streaming: Streaming,
        wire_encoding: str,
        storage: TaskStorage | None = None,
        on_given_up: Callable[[str], None],
    ) -> None:
        self._control = control
        self._pool = pool
        self._replies = replies
        self._opener = opener
        self._notices = notices
        self._streaming = streaming
        self._encoding = wire_encoding
        self._storage = storage
        self._on_given_up = on_given_up
        self._is_silent = True  #: whether nothing that only a worker says has come over this connection
        self._handlers: dict[str, Callable[[WorkerMessage], None]] = {
            messages.INITIALIZE: self._initialize,
            messages.START: self._start,
            messages.STOP: self._stop,
            messages.EXIT: self._exit,
            messages.ALREADY_CONNECTED: self._already_connected,
            messages.DISCOVERY: self._discovery,
        }

    # ---- the connection

    def on_link_open(self) -> None:
        """A worker is connected."""
        self._is_silent = True
        self._notices.connected(self._url)

    def on_link_unreachable(self, reason: str) -> None:
        """An attempt to connect has failed."""
        child = self._pool.child
        self._notices.unreachable(self._url, reason, is_loading=child is not None and not child.loaded)

    def on_link_given_up(self, reason: str) -> None:
        """No worker could be reached within --connect-timeout."""
        self._on_given_up(reason)

    def on_link_drop(self, reason: str) -> None:
        """The connection is lost. The task continues; unsent messages wait for the next connection."""
        self._replies.connection += 1
        if self._control.state is not State.EXITED:
            self._notices.connection_lost(reason)

    def on_link_resumed(self, *, all_written: bool) -> None:
        """The same worker is connected again and sends nothing: repeat an `initialized` that may be lost."""
        task = self._control.task
        if (
            all_written
            and task is not None
            and self._control.state is State.INITIALIZED
            and task.initialized_on < self._replies.connection
        ):
            self._control.step(Event.INITIALIZE_AGAIN)

    def on_link_answer_lost(self, why: str) -> None:
        """Report that the answer of the last task was dropped, also in the task's record."""
        if self._replies.last_answered is None:
            return
        name, record = self._replies.last_answered
        reason = f"its answer was dropped: {why}"
        self._notices.answer_lost(name, reason)
        if record is not None:
            record.add_problem(reason)

    @property
    def _url(self) -> str:
        assert self._replies.link is not None, "its link has called"
        return self._replies.link.url

    # ---- messages

    def on_link_message(self, message: WorkerMessage) -> None:
        """A message of the worker has arrived."""
        try:
            command = encoding.command_of(self._encoding, message.head, message.whole)
        except ValueError as error:
            self._notices.unreadable("a message", error)
            message.release()
            return
        is_kept = command == messages.INITIALIZE
        try:
            handler = self._handlers.get(command)
            if self._is_silent and command in _WORKER_SAYS:
                self._is_silent = False
                self._replies.worker_spoke()
            if handler is not None:
                if self._notices.shows_commands:
                    self._notices.command(command)
                handler(message)
            elif command in ANSWERS:
                self._pass_answer(message)
            else:
                self._notices.unknown_command(command)
        finally:
            if not is_kept:
                message.release()

    def _initialize(self, message: WorkerMessage) -> None:
        control, task = self._control, self._control.task
        if task is not None and control.state in WORKING and self._opener.is_repeated(task, message):
            # HKube's debug server repeats it after each reconnect; the task is not run twice.
            self._notices.repeated_initialize()
            if control.state is State.INITIALIZED:
                # The first `initialized` is lost or still waits to be sent: the worker gets exactly one.
                self._replies.drop_unsent()
            control.step(Event.INITIALIZE_AGAIN)
            message.release()
        elif control.state in ENDING:
            message.release()
        else:
            # A worker that begins a task wants no answer of an old one.
            self._replies.drop_unsent()
            control.step(Event.INITIALIZE, message)

    def _start(self, message: WorkerMessage) -> None:
        control = self._control
        if control.state is State.FETCHING and control.task is not None:
            control.task.is_started_early = True  # a server that does not wait; no child has the task yet
        else:
            control.step(Event.START)

    def _stop(self, message: WorkerMessage) -> None:
        self._control.step(Event.STOP, messages.data_of(self._decoded(message)) or {"forceStop": True})

    def _exit(self, message: WorkerMessage) -> None:
        decoded = self._decoded(message)
        if self._control.state is not State.EXITING:
            self._control.exit_status = messages.exit_code_of(decoded)
        self._control.step(Event.EXIT, messages.data_of(decoded) or {"exitCode": 0})

    def _already_connected(self, message: WorkerMessage) -> None:
        self._notices.already_connected(messages.data_of(self._decoded(message)).get("hostname"))

    def _decoded(self, message: WorkerMessage, most_bytes: int = BLOB_MIN) -> Any:
        """Return the data of a message; {} for one that is larger, or cannot be decoded."""
        if message.size > most_bytes:
            self._notices.unreadable("data", ValueError(f"it has {message.size:,} bytes"))
            return {}
        try:
            return encoding.decode(self._encoding, message.whole())
        except ValueError as error:
            # Its command was read, and is obeyed: the worker waits 10 or 20 s, then ends the pod.
            self._notices.unreadable("data", error)
            return {}

    def _discovery(self, message: WorkerMessage) -> None:
        decoded = self._decoded(message, DISCOVERY_MAX)
        if isinstance(decoded, dict):
            self._streaming.parents_changed(decoded.get("data"))

    def _pass_answer(self, message: WorkerMessage) -> None:
        """Pass an answer to a call of the code API on to the child, as it came."""
        child, task = self._pool.child, self._control.task
        if child is None or task is None or self._control.state not in WORKING:
            return  # its task is over: nothing waits for it
        if message.blob is not None:
            # Whoever gets it reads it in its own time: this memory is not used again for the next message.
            message.blob.disown()
        if self._storage is not None:
            self._storage.answer(task, message)
        elif message.blob is None:
            child.reply(task.number, message.data)
        else:
            child.reply(task.number, Memfd(message.blob.fd, message.blob.size))
