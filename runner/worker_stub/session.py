"""The worker's side of one connection: one task after another, and which message may come when.

It follows HKube's worker (core/worker lib/algorithm-communication/ws.js, lib/states): the worker sends the
first message; one task at a time goes through initialize, initialized, start, then one of done, errorMessage
and stopped. Where HKube's worker would die of a client's mistake, or give a task up, this one reports that
and continues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ...sandbox.codec import codec, unreadable
from ..io.loop import Loop, Timer
from ..protocol import encoding, messages
from ..storage.errors import StorageError
from .catalog import Catalog
from .task import Answer, LocalTask

# The code API is imported with its first call: few algorithms call it, and it costs 5 ms of each start.
if TYPE_CHECKING:
    from .code_api import CodeApi
    from .stored_values import StoredValues

#: The commands of the code API.
CODE_API = frozenset(
    (
        "startAlgorithmExecution",
        "stopAlgorithmExecution",
        "startRawSubPipeline",
        "startStoredSubPipeline",
        "stopSubPipeline",
        "dataSourceRequest",
        "startSpan",
        "finishSpan",
    )
)

#: HKube's worker tolerates this much silence after an `alive`, a stop or a `stopping` (config/main).
SILENCE_S = 10.0
#: The longest that `stopping` messages extend a stop.
STOPPING_S = 600.0
#: The error of HKube's worker for a task that was stopped because its node's ttl has passed.
TTL_EXPIRED = "Algorithm TTL expired"


class ClientLink(Protocol):
    """Carries messages to the client."""

    encoding: str

    def send(self, data: bytes) -> None:
        """Send one message, encoded."""


class TaskState(Enum):
    """The state of the client's task."""

    NONE = auto()
    INITIALIZING = auto()
    WORKING = auto()
    STOPPING = auto()


@dataclass
class SessionListener:
    """Callbacks for what a client does."""

    on_answer: Callable[[Answer], None]
    on_problem: Callable[[str], None]
    on_progress: Callable[[LocalTask, Any], None] = lambda task, data: None
    on_logs: Callable[[list[str]], None] = lambda lines: None
    on_statistics: Callable[[list[Any]], None] = lambda items: (
        None
    )  #: of a streaming task: one for each next node


class Session:
    """The conversation with one client, from its first task to its end."""

    def __init__(
        self,
        loop: Loop,
        link: ClientLink,
        catalog: Catalog,
        listener: SessionListener,
        values: StoredValues | None = None,
    ) -> None:
        """`values`: of a client with storage v3."""
        self._values = values
        self._loop = loop
        self._link = link
        self._catalog = catalog
        self._listener = listener
        self._report = listener.on_problem
        self._state = TaskState.NONE
        self._code_api: CodeApi | None = None  #: that of the task, from its first call on
        self._silence: Timer | None = None
        self._ttl: Timer | None = None
        self._is_expired = False  #: whether the task was stopped because its ttl has passed
        self._stop_began = float("-inf")
        self._leaving = False
        self.task: LocalTask | None = None

    # ---- messages to the client

    def begin(self, task: LocalTask) -> None:
        """Start the task; the client must be free.

        Raises ResultInvalid if the input cannot be encoded, StorageError if it cannot be stored.
        """
        assert self.task is None, "one task at a time"
        if self._values is None:
            wire = task.initialize(self._link.encoding)
        else:
            wire = encoding.encode(self._link.encoding, self._values.initialize(task))
        self._end_silence()
        self.task, self._state = task, TaskState.INITIALIZING
        self._is_expired = False
        self._link.send(wire)

    def stop(self, *, force: bool = True, at_once: bool = False) -> bool:
        """Ask the client to stop its task; return whether it has been asked, now or before.

        HKube's worker asks only once start() runs; with at_once the client is asked during init() as well.
        """
        early = at_once and self._state is TaskState.INITIALIZING
        if self._state is TaskState.WORKING or early:
            self._state = TaskState.STOPPING
            self._stop_began = self._loop.clock()
            self._expect("no `stopped` came within 10 s of the stop; HKube's worker would end the container")
            self._say({"command": "stop", "data": {"forceStop": force}})
        return self._state is TaskState.STOPPING

    def update_parents(self, changes: list[dict[str, Any]]) -> None:
        """Tell the client of a streaming task where nodes that send to it are now, or are no longer.

        HKube's worker sends these discovery updates from `start` on.
        """
        self._say({"command": messages.DISCOVERY, "data": changes})

    def exit(self, code: int = 0) -> None:
        """Ask the client to exit."""
        self._end_silence()
        self._leaving = True
        self._say({"command": "exit", "data": {"exitCode": code}})

    def close(self) -> LocalTask | None:
        """Stop everything the client's task has started; return the task unless it was answered."""
        self._end_silence()
        task = self.task
        self._end_task()
        return task

    def spans(self) -> list[dict[str, Any]]:
        """End the open spans of the current task; return all of them."""
        return self._code_api.spans() if self._code_api is not None else []

    def _say(self, message: dict[str, Any]) -> None:
        try:
            # Messages of the worker have no size limit.
            wire = codec.encode(self._link.encoding, message, name="answer", most=None)
        except codec.ResultInvalid as error:
            # The result of another algorithm came as JSON, and this client's encoding cannot carry it.
            from .code_api import as_error

            wire = encoding.encode(self._link.encoding, as_error(message, str(error)))
        self._link.send(wire)

    # ---- messages from the client

    def hear(self, data: bytes) -> None:
        """Handle one message, still encoded."""
        if len(data) > codec.MESSAGE_LIMIT:
            self._report(
                f"the client sent {len(data):,} bytes; HKube's worker accepts at most {codec.MESSAGE_LIMIT:,}"
            )
        try:
            message = codec.decode(self._link.encoding, data)
        except ValueError as error:
            wrong = unreadable.why(error, f"is not {self._link.encoding}; HKube's worker would crash")
            text = f"the client sent a message that {wrong}"
            self._report(text)
            if self.task is not None:
                # It may have been the answer, and no other one will come.
                self._answered("errorMessage", {"command": "errorMessage", "error": {"message": text}})
            return
        command = message.get("command") if isinstance(message, dict) else None
        if not isinstance(command, str):
            self._report("the client sent a message without a command; HKube's worker would crash")
            return
        self._handle(command, message)

    def _handle(self, command: str, message: dict[str, Any]) -> None:
        data = message.get("data")
        if command == "initialized":
            self._initialized()
        elif command in ("done", "errorMessage", "stopped"):
            self._answered(command, message)
        elif command == "storing" and self._values is not None:
            self._values.note_storing(data)
        elif command == "alive":
            self._alive()
        elif command == "stopping":
            self._stopping()
        elif command in CODE_API:
            self._call(command, data)
        elif command == "progress" and self.task is not None:
            self._listener.on_progress(self.task, data)
        elif command == "logData" and isinstance(data, list):
            self._listener.on_logs([str(line) for line in data])
        elif command == "streamingStatistics" and isinstance(data, list):
            self._listener.on_statistics(data)
        elif command == "error":
            self._report("the client sent the command `error`; HKube's worker would crash")

    def _initialized(self) -> None:
        if self._state is not TaskState.INITIALIZING:
            if self._state is not TaskState.STOPPING:  # with at_once we stop during init()
                self._report("`initialized` came without an initialize; HKube's worker would exit")
            return
        self._state = TaskState.WORKING
        self._say({"command": "start", "data": {"spanId": {}}})
        ttl_s = self.task.more.get("ttl") if self.task is not None else None
        if ttl_s:
            self._ttl = self._loop.after(ttl_s, self._expire)

    def _expire(self) -> None:
        if self._state is TaskState.WORKING:
            self._is_expired = True
            self.stop()

    def _answered(self, command: str, message: dict[str, Any]) -> None:
        if self.task is None:
            self._report(f"`{command}` came while there was no task; ignored")
            return
        if self._state is TaskState.STOPPING and command != "stopped":
            return  # HKube's worker ignores it too, and keeps waiting for `stopped`
        if command == "stopped" and self._state is not TaskState.STOPPING:
            self._report(
                "`stopped` came without a stop; HKube's worker records the task as a success without a result"
            )
            command, message = "done", {"command": "done"}
        elif command == "stopped" and self._is_expired:
            command, message = "errorMessage", {"command": "errorMessage", "error": {"message": TTL_EXPIRED}}
        error = message.get("error")
        if command == "done" and isinstance(error, dict) and error.get("message"):
            command = "errorMessage"  # as HKube's worker treats it
        answer = Answer(self.task, command, message)
        if command == "errorMessage" and answer.error == "unknown error":
            self._report(
                "an `errorMessage` has no text in error.message; HKube's worker reports `unknown error`"
            )
        self._end_silence()
        answer = Answer(self.task, command, message, self._end_task())
        if self._values is not None:
            try:
                answer = self._values.with_result(answer)
            except StorageError as problem:
                text = f"the result that the client has stored cannot be read: {problem}"
                failed = {"command": "errorMessage", "error": {"message": text}}
                answer = Answer(answer.task, "errorMessage", failed, answer.spans)
        self._listener.on_answer(answer)

    def _end_task(self) -> list[dict[str, Any]]:
        code_api, self._code_api = self._code_api, None
        self.task, self._state = None, TaskState.NONE
        if self._ttl is not None:
            self._ttl.cancel()
            self._ttl = None
        return code_api.close() if code_api is not None else []

    def _call(self, command: str, data: Any) -> None:
        if command == "dataSourceRequest":
            if isinstance(data, dict):
                from .code_api import data_source

                self._say(data_source(self._catalog, data))
            else:
                self._report("the client sent a dataSourceRequest without data; HKube's worker would crash")
        elif self.task is not None and self._state is not TaskState.STOPPING:
            if self._code_api is None:
                from .code_api import CodeApi

                self._code_api = CodeApi(
                    self._loop, self._catalog, self.task, self._answer_call, self._report
                )
            try:
                told = data if self._values is None else self._values.call(command, data)
            except StorageError as problem:
                refused = {"execId": data.get("execId"), "error": str(problem)}
                self._say({"command": "algorithmExecutionError", "data": refused})
                return
            self._code_api.handle(command, told, working=self._state is TaskState.WORKING)
        elif command == "startAlgorithmExecution":
            told = {"error": "execution cannot start in this state"}
            if isinstance(data, dict) and "execId" in data:
                told = {"execId": data["execId"], **told}
            self._say({"command": "algorithmExecutionError", "data": told})
        elif command in ("startRawSubPipeline", "startStoredSubPipeline"):
            self._say({"command": "subPipelineError", "data": {"error": "No errors"}})

    def _answer_call(self, message: dict[str, Any]) -> None:
        if self._values is not None and self.task is not None:
            try:
                message = self._values.answer(self.task, message)
            except StorageError as problem:
                from .code_api import as_error

                message = as_error(message, str(problem))
        self._say(message)

    # ---- signs of life

    def _alive(self) -> None:
        if self._leaving:
            return
        if self.task is None:
            self._expect("`alive` came without a task, and no task within 10 s; HKube's worker would exit")
        elif self._state is not TaskState.STOPPING:
            name = self.task.task
            self._expect(
                f"no `alive` for 10 s after the last one; HKube's worker would lose the answer of task {name}"
            )

    def _stopping(self) -> None:
        if self._leaving:
            return
        if self._state is not TaskState.STOPPING:
            self._report("`stopping` came without a stop; HKube's worker would exit 10 s later")
        elif self._loop.clock() - self._stop_began < STOPPING_S:
            self._expect("no `stopping` and no `stopped` for 10 s; HKube's worker would end the container")

    def _expect(self, problem: str) -> None:
        """Report the problem unless the client sends another sign of life within SILENCE_S."""
        self._end_silence()
        self._silence = self._loop.after(SILENCE_S, partial(self._report, problem))

    def _end_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
