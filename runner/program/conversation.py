"""What a program may say, and when: its messages become those that a child sends to the supervisor.

HKube's messages carry no task id, so the state of the conversation says which of them may come, and of which
task they are. What may not come is held back, and reported once: HKube's worker would end, or take it for the
answer of another task. What may come is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from ...sandbox.codec import DONE_JSON, unreadable
from ...sandbox.shared.message_format import Memfd, ProcessMessage, Wire
from ...sandbox.shared.messages import ApiCall, Done, Failed, Initialized, Problem, Progress
from ...sandbox.shared.stream_messages import StreamStage, StreamStatistics
from ..link.message_memory import MessageMemory, WorkerMessage
from ..protocol import encoding, messages
from . import program_message
from .program_message import ProgramMessage
from .program_stream import ProgramStream, is_number
from .task_files import TaskFiles

#: Calls of the code API, which go to the worker.
CALLS = frozenset(
    (
        *("startAlgorithmExecution", "stopAlgorithmExecution", "dataSourceRequest"),
        *("startRawSubPipeline", "startStoredSubPipeline", "stopSubPipeline", "startSpan", "finishSpan"),
    )
)
#: Messages that hkrunner sends itself, at the right times.
SAID_BY_US = frozenset(("started", "alive", "stopping"))
#: A longer text of an error is cut.
ERROR_TEXT_MAX = 20_000
#: Largest message that is decoded here.
DECODED_MAX = 1024 * 1024
#: Most reports of messages that were held back, for each run.
REPORTED_MAX = 100


class Talk(Enum):
    """The state of the conversation about the current task."""

    NONE = "there is no task, or it has its answer"
    SENDING = "`initialize` is being sent"
    INITIALIZING = "`initialize` is sent"
    INITIALIZED = "the program has said `initialized`"
    STARTED = "`start` is sent"
    STOPPING = "`stop` is sent"


class Conversation:
    """The messages of one program, from its first task to its end."""

    def __init__(
        self,
        wire_encoding: str,
        on_message: Callable[[int, ProcessMessage], None],
        *,
        on_unsure: Callable[[], object],
        on_returned: Callable[[], object],
        on_hand_out: Callable[[], object],
        reported: set[str],
    ) -> None:
        """on_message(task, message): task 0 for a message of none; a memfd in it is the callee's to close.

        `on_unsure`: the program may send the answer of a task that is over, and must get no further task.
        `on_returned`: a task of a stream is done, its messages may not be taken yet. `on_hand_out`:
        `stop` is to be sent, at which HKube's wrapper hands out what is left.
        `reported`: what was said already of earlier processes of this program.
        """
        self._encoding = wire_encoding
        self._on_message = on_message
        self._on_unsure = on_unsure
        self._on_returned, self._on_hand_out = on_returned, on_hand_out
        self._reported = reported
        self.task = 0  #: that it is about, or was
        self._talk = Talk.NONE
        self._owes_stopped = (
            False  #: a `stop` was sent, for this task or an earlier one, and no `stopped` came
        )
        self._is_started = False  #: whether `start` was sent for the task
        self._is_late = False  #: whether the next message was begun before the task
        self.stream: ProgramStream | None = None  #: of the task, if it is one of a stream
        self.files = TaskFiles(wire_encoding, None, None, self.report)
        self._handlers: dict[str, Callable[[WorkerMessage, ProgramMessage], None]] = {
            "initialized": self._initialized,
            "done": self._done,
            "errorMessage": self._error_message,
            "stopped": self._stopped,
            "progress": self._progress,
            "streamingStatistics": self._statistics,
            messages.OVERDUE: self._overdue,
            **dict.fromkeys(("logData", *CALLS), self._call),
        }

    # ---- messages to the program

    def begin(self, task: int, *, is_amid: bool = False) -> None:
        """Begin the conversation about this task, whose `initialize` is being sent.

        `is_amid`: a message has begun and not ended.
        """
        self.close()
        self.task, self._talk, self._is_started = task, Talk.SENDING, False
        self._is_late = is_amid

    def keep_in(self, folder: str | None, keep_max_bytes: int | None) -> None:
        """Keep the input and the result of the task in this folder; see TaskFiles."""
        self.files.close()
        self.files = TaskFiles(self._encoding, folder, keep_max_bytes, self.report)

    def initialize_sent(self, task: int) -> bool:
        """The whole `initialize` is sent; return whether this task is still the current one."""
        if self.task != task or self._talk is Talk.NONE:
            return False
        if self._talk is Talk.SENDING:
            self._talk = Talk.INITIALIZING
        return True

    def start(self) -> None:
        """`start` is sent."""
        self._talk, self._is_started = Talk.STARTED, True

    def stop(self, *, in_order: bool = False) -> None:
        """`stop` is sent; `in_order`: a stream is to hand out what it has first."""
        self._talk = Talk.STOPPING
        self._owes_stopped = True
        if self.stream is not None:
            self.stream.ends_in_order = in_order

    @property
    def has_task(self) -> bool:
        """Whether a task is worked on that was not asked to stop."""
        return self._talk not in (Talk.NONE, Talk.STOPPING)

    @property
    def is_more_due(self) -> bool:
        """Whether the program is to send something before it hears from us again."""
        return self._talk in (Talk.INITIALIZING, Talk.STARTED, Talk.STOPPING)

    def close(self) -> None:
        """Close the files of the task, and forget its stream."""
        if self.stream is not None:
            self.stream.drop()
            self.stream = None
        self.keep_in(None, None)

    # ---- messages of the program

    def take(self, message: WorkerMessage) -> None:
        """Pass on a message of the program, or hold it back; release it."""
        wire = message.data if message.blob is None else message.blob.view()
        is_late, self._is_late = self._is_late, False
        has_task = self._talk is not Talk.NONE and not is_late
        try:
            is_ascii = message.blob is not None and message.blob.is_ascii
            said = program_message.read(self._encoding, wire, is_ascii=is_ascii)
        except ValueError as error:
            self._unreadable(message, error, has_task=has_task)
        else:
            self._take_readable(message, said, has_task=has_task)
        finally:
            message.release()

    def _take_readable(self, message: WorkerMessage, said: ProgramMessage, *, has_task: bool) -> None:
        command, handler = said.command, self._handlers.get(said.command)
        if command in SAID_BY_US:
            if not has_task and command != "started" and not self._owes_stopped:
                self._hold_back(f"`{command}` while it had no task")
        elif handler is None:
            self._hold_back(f"{command[:80]!r}, which is no message for HKube's worker")
        elif command == "stopped" and self._owes_stopped and (not has_task or self._talk is Talk.SENDING):
            self._owes_stopped = False  # of the task before, which has its answer
        elif not has_task:
            self._hold_back(f"`{command}` while it had no task")
        elif self._talk is Talk.SENDING:
            self._hold_back(f"`{command}` before it had read its task")
        else:
            handler(message, said)

    def _unreadable(self, message: WorkerMessage, error: ValueError, *, has_task: bool) -> None:
        """Hold back what HKube's worker could not decode; if it was the answer, the task has failed."""
        try:
            command = encoding.command_of(self._encoding, message.head, bytes)
        except ValueError:
            command = ""
        if command == "done" and has_task and self._talk in (Talk.STARTED, Talk.STOPPING):
            text = f"RESULT_INVALID: the result {unreadable.why(error, f'is no {self._encoding}')}"
            self._answer(Failed("RESULT_INVALID", text))
        else:
            what = f"`{command}`" if command else "a message"
            self._hold_back(f"{what} that {unreadable.why(error, f'is no {self._encoding}')}")

    def _initialized(self, message: WorkerMessage, said: ProgramMessage) -> None:
        if self._talk is Talk.INITIALIZED or self._is_started:
            self._hold_back("a second `initialized` for one task")
            return
        if self._talk is Talk.INITIALIZING:
            self._talk = Talk.INITIALIZED
        else:  # stopped in its init(): it has nothing to do for the task any more
            self._talk = Talk.NONE
            self.close()
        self._on_message(self.task, Initialized())

    def _done(self, message: WorkerMessage, said: ProgramMessage) -> None:
        if self._talk not in (Talk.STARTED, Talk.STOPPING):
            self._hold_back("`done` before `start`")
        elif said.has_error:
            self._error_message(message, said)
        else:
            wire = message.data if message.blob is None else message.blob.view()
            self.files.write_output(wire, said.data_json)
            done = Done(_done_for_worker(message, said))
            stream = self.stream
            if stream is None or not stream.children:
                self._answer(done)
            else:
                # The result is kept until the next nodes have taken all messages, which the program holds.
                stream.drop()
                stream.keep(done)
                if self._talk is Talk.STARTED:
                    self._on_returned()

    def hand_out(self, *, without_reports: bool = False) -> None:
        """Ask the program by `stop`, once its task has returned, to hand out the messages that are left.

        `without_reports`: only if it does not report at all.
        """
        stream = self.stream
        if stream is None or not stream.is_done or self._talk is not Talk.STARTED:
            return
        if not (without_reports and stream.is_reported):
            self.stop(in_order=True)
            self._on_hand_out()

    def end_handing_out(self, task: int) -> None:
        """The time for hand_out() is over: the result of this task is its answer, if it has none yet."""
        stream = self.stream
        if self.task != task or self._talk is not Talk.STOPPING or stream is None:
            return
        result = stream.take()
        if result is not None:
            self.report("the program has not said `stopped` in time: messages that it still has are lost")
            self._answer(result)
            self._on_unsure()

    def _error_message(self, message: WorkerMessage, said: ProgramMessage) -> None:
        if message.size > DECODED_MAX:
            what = f"the error of the program has {message.size:,} bytes; up to {DECODED_MAX:,} are read"
            self._answer(Failed("ALGORITHM_ERROR", f"ALGORITHM_ERROR: {what}"))
            return
        error = _decoded(self._encoding, message).get("error")
        told = error if isinstance(error, dict) else {"message": error}
        text, details = told.get("message"), told.get("details")
        if not isinstance(text, str) or not text:
            text = "ALGORITHM_ERROR: the program reports an error, and does not say which"
        shown = "" if details is None else str(details)
        self._answer(Failed("ALGORITHM_ERROR", text[:ERROR_TEXT_MAX], shown[:ERROR_TEXT_MAX]))

    def _stopped(self, message: WorkerMessage, said: ProgramMessage) -> None:
        asked, self._owes_stopped = self._owes_stopped, False
        if asked and self._talk is Talk.STOPPING:
            # It may still work on the task, and its late `done` would be taken for that of the next one.
            if self.stream is not None and self.stream.ends_in_order:
                self._answer(self.stream.take() or Done(encoding.encode(self._encoding, messages.DONE)))
            else:
                self._answer(Failed("ALGORITHM_ERROR", "ALGORITHM_ERROR: stopped", ends=True))
            self._on_unsure()
        elif not asked:
            # HKube's worker would take it for a success without a result.
            text = "ALGORITHM_ERROR: the program said `stopped`, unasked"
            self._answer(Failed("ALGORITHM_ERROR", text))

    def _progress(self, message: WorkerMessage, said: ProgramMessage) -> None:
        data = _decoded(self._encoding, message).get("data")
        told = data if isinstance(data, dict) else {"progress": data}
        value = told.get("progress")
        if not is_number(value):
            self._hold_back("`progress` without a number")
        else:
            self._on_message(self.task, Progress(float(value), told.get("details")))

    def _statistics(self, message: WorkerMessage, said: ProgramMessage) -> None:
        stream = self.stream or ProgramStream(())
        try:
            items = stream.checked(_decoded(self._encoding, message).get("data"))
        except ValueError as error:
            self._hold_back(f"`streamingStatistics` {error}")
            return
        stream.is_reported = True
        self._on_message(self.task, StreamStatistics(items))
        if not any(one["queueSize"] for one in items):
            self.hand_out()

    def _overdue(self, message: WorkerMessage, said: ProgramMessage) -> None:
        if self.stream is None:
            self._hold_back(f"`{said.command}` of a task without a stream")
        else:
            self._on_message(self.task, StreamStage("overdue"))

    def _call(self, message: WorkerMessage, said: ProgramMessage) -> None:
        if not said.data_is_object and said.command != "logData":
            self._hold_back(f"`{said.command}` whose `data` is no object")
        else:
            self._on_message(self.task, ApiCall(_passed_on(message)))

    # ---- messages to the supervisor

    def _answer(self, message: Done | Failed) -> None:
        """The task has its one answer; what follows is of no task."""
        self._talk = Talk.NONE
        self.close()
        self._on_message(self.task, message)

    def _hold_back(self, what: str) -> None:
        self.report(f"the program sent {what}; held back from the worker")

    def report(self, text: str) -> None:
        """Report a problem, once for each run."""
        if text not in self._reported and len(self._reported) < REPORTED_MAX:
            self._reported.add(text)
            self._on_message(0, Problem(text))


def _decoded(wire_encoding: str, message: WorkerMessage) -> dict[str, Any]:
    if message.size > DECODED_MAX:
        return {}
    try:
        found = encoding.decode(wire_encoding, message.whole())
    except ValueError:  # nested a little deeper than what was checked may be
        return {}
    return found if isinstance(found, dict) else {}


def _passed_on(message: WorkerMessage, *, is_lent: bool = False) -> Wire:
    """Return the message for the worker; a large one in its memory, which is the receiver's then.

    `is_lent`: the receiver has finished with it when the next task begins.
    """
    blob = message.blob
    if blob is None:
        return message.data
    message.blob = None
    size = blob.size
    return Memfd(blob.lend() if is_lent else blob.detach(), size)


def _done_for_worker(message: WorkerMessage, said: ProgramMessage) -> Wire:
    """Return a `done` for the worker, in json as hkrunner writes it, so that the result is found in it."""
    data = said.data_json
    if data is None:
        return _passed_on(message, is_lent=True)
    size = len(DONE_JSON) + len(data) + 1
    if size == message.size and message.head.startswith(DONE_JSON):
        return _passed_on(message, is_lent=True)
    if message.blob is None:
        return b"".join((DONE_JSON, data, b"}"))
    memory = MessageMemory(size)
    memory.map[: len(DONE_JSON)] = DONE_JSON
    memory.map[len(DONE_JSON) : -1] = bytes(data)
    memory.map[-1:] = b"}"
    return Memfd(memory.detach(), size)
