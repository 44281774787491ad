"""The worker's side of one connection: task after task, and what the client may say when.

It speaks as the real one (HKube core/worker lib/algorithm-communication/ws.js, lib/states): the first
message is the worker's, one task at a time goes through initialize, initialized, start, then one of done,
errorMessage and stopped. Where the real one dies of a client's mistake, or gives a task up, this one says
what it would do, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from ...sandbox.codec import codec
from ..io.loop import Loop, Timer
from ..protocol import encoding
from .code_api import COMMANDS, Calls, Offer, as_error, data_source
from .task import Answer, LocalTask

#: Silence after an `alive`, a stop or a `stopping` that HKube's worker bears (PROTOCOL 3.2).
SILENCE_S = 10.0
#: `stopping` puts the end of a stop off for this long at most.
STOPPING_S = 600.0


class Wire(Protocol):
    """How messages reach the client."""

    encoding: str

    def send(self, data: bytes) -> None:
        """Send one message, encoded."""


class TaskState(Enum):
    """Where the task that was handed out stands."""

    NONE = auto()
    INITIALIZING = auto()
    WORKING = auto()
    STOPPING = auto()


@dataclass
class Ears:
    """Who is told what a client does."""

    on_answer: Callable[[Answer], None]
    on_problem: Callable[[str], None]
    on_progress: Callable[[LocalTask, Any], None] = lambda task, data: None
    on_logs: Callable[[list[str]], None] = lambda lines: None


class Session:
    """One client, from its first task to its end."""

    def __init__(self, loop: Loop, wire: Wire, offer: Offer, ears: Ears) -> None:
        self._loop = loop
        self._wire = wire
        self._offer = offer
        self._ears = ears
        self._state = TaskState.NONE
        self._calls: Calls | None = None
        self._sign: Timer | None = None
        self._stop_began = float("-inf")
        self._leaving = False
        self.task: LocalTask | None = None

    # ---- what the worker says

    def begin(self, task: LocalTask) -> None:
        """Hand the task out. There is no other one. Raises ResultInvalid for an input that cannot be sent."""
        assert self.task is None, "one task at a time"
        wire = task.initialize(self._wire.encoding)
        self._hush()
        self.task, self._state = task, TaskState.INITIALIZING
        self._calls = Calls(self._loop, self._offer, task, self._say, self._ears.on_problem)
        self._wire.send(wire)

    def stop(self, *, force: bool = True, at_once: bool = False) -> bool:
        """Ask the client to stop its task; True if it is asked now, or was.

        The real worker does so only once start() runs; `at_once` also before.
        """
        early = at_once and self._state is TaskState.INITIALIZING
        if self._state is TaskState.WORKING or early:
            self._state = TaskState.STOPPING
            self._stop_began = self._loop.clock()
            self._listen("no `stopped` came within 10 s of the stop; HKube's worker would end the container")
            self._say({"command": "stop", "data": {"forceStop": force}})
        return self._state is TaskState.STOPPING

    def exit(self, code: int = 0) -> None:
        """Ask the client to end."""
        self._hush()
        self._leaving = True
        self._say({"command": "exit", "data": {"exitCode": code}})

    def close(self) -> LocalTask | None:
        """The client is gone: stop what its task has started; returns the task if it was not answered."""
        self._hush()
        task = self.task
        self._end_task()
        return task

    def spans(self) -> list[dict[str, Any]]:
        """End the spans of the task that is worked on, and return them."""
        return self._calls.spans() if self._calls is not None else []

    def _say(self, message: dict[str, Any]) -> None:
        try:
            # What the worker sends has no limit (PROTOCOL 1.4).
            wire = codec.encode(self._wire.encoding, message, name="answer", most=None)
        except codec.ResultInvalid as error:
            # Another algorithm's result came as JSON, and this client speaks something else.
            wire = encoding.encode(self._wire.encoding, as_error(message, str(error)))
        self._wire.send(wire)

    # ---- what the client says

    def hear(self, data: bytes) -> None:
        """One message, as it came."""
        if len(data) > codec.MESSAGE_LIMIT:
            self._ears.on_problem(
                f"a message of {len(data):,} bytes; HKube's worker takes at most {codec.MESSAGE_LIMIT:,}"
            )
        try:
            message = codec.decode(self._wire.encoding, data)
        except ValueError as error:
            self._ears.on_problem(
                f"a message that is no {self._wire.encoding}; HKube's worker would die of it: {error}"
            )
            if self.task is not None:
                # Whatever it was, nothing better will come.
                text = f"the client sent a message that is no {self._wire.encoding}: {error}"
                self._answered("errorMessage", {"command": "errorMessage", "error": {"message": text}})
            return
        command = message.get("command") if isinstance(message, dict) else None
        if not isinstance(command, str):
            self._ears.on_problem(
                "the client sent a message without a command; HKube's worker would die of it"
            )
            return
        self._take(command, message)

    def _take(self, command: str, message: dict[str, Any]) -> None:
        data = message.get("data")
        if command == "initialized":
            self._initialized()
        elif command in ("done", "errorMessage", "stopped"):
            self._answered(command, message)
        elif command == "alive":
            self._alive()
        elif command == "stopping":
            self._stopping()
        elif command in COMMANDS:
            self._call(command, data)
        elif command == "progress" and self.task is not None:
            self._ears.on_progress(self.task, data)
        elif command == "logData" and isinstance(data, list):
            self._ears.on_logs([str(line) for line in data])
        elif command == "error":
            self._ears.on_problem("a message with the command `error`; HKube's worker would die of it")

    def _initialized(self) -> None:
        if self._state is not TaskState.INITIALIZING:
            if self._state is not TaskState.STOPPING:  # stopped while it initialized: only we do that
                self._ears.on_problem("`initialized` came unasked; HKube's worker would exit")
            return
        self._state = TaskState.WORKING
        self._say({"command": "start", "data": {"spanId": {}}})

    def _answered(self, command: str, message: dict[str, Any]) -> None:
        if self.task is None:
            self._ears.on_problem(f"`{command}` came while there was no task; ignored")
            return
        if self._state is TaskState.STOPPING and command != "stopped":
            return  # the real worker drops it too, and goes on waiting for `stopped`
        if command == "stopped" and self._state is not TaskState.STOPPING:
            self._ears.on_problem(
                "`stopped` came unasked; HKube's worker takes the task for one that succeeded, with no result"
            )
            command, message = "done", {"command": "done"}
        error = message.get("error")
        if command == "done" and isinstance(error, dict) and error.get("message"):
            command = "errorMessage"  # as the real worker takes it
        answer = Answer(self.task, command, message)
        if command == "errorMessage" and answer.error == "unknown error":
            self._ears.on_problem(
                "an `errorMessage` without a text in error.message; HKube's worker says `unknown error` then"
            )
        self._hush()
        answer = Answer(self.task, command, message, self._end_task())
        self._ears.on_answer(answer)

    def _end_task(self) -> list[dict[str, Any]]:
        calls, self._calls = self._calls, None
        self.task, self._state = None, TaskState.NONE
        return calls.close() if calls is not None else []

    def _call(self, command: str, data: Any) -> None:
        if command == "dataSourceRequest":
            if isinstance(data, dict):
                self._say(data_source(self._offer, data))
            else:
                self._ears.on_problem("a dataSourceRequest without data; HKube's worker would die of it")
        elif self._calls is not None and self._state is not TaskState.STOPPING:
            self._calls.take(command, data, working=self._state is TaskState.WORKING)
        elif command == "startAlgorithmExecution":
            told = {"error": "execution cannot start in this state"}
            if isinstance(data, dict) and "execId" in data:
                told = {"execId": data["execId"], **told}
            self._say({"command": "algorithmExecutionError", "data": told})
        elif command in ("startRawSubPipeline", "startStoredSubPipeline"):
            self._say({"command": "subPipelineError", "data": {"error": "No errors"}})

    # ---- signs of life

    def _alive(self) -> None:
        if self._leaving:
            return
        if self.task is None:
            self._listen("an `alive` came without a task, and no task within 10 s; HKube's worker would exit")
        elif self._state is not TaskState.STOPPING:
            name = self.task.task
            self._listen(
                f"no `alive` for 10 s after the last one; HKube's worker would lose the answer of task {name}"
            )

    def _stopping(self) -> None:
        if self._leaving:
            return
        if self._state is not TaskState.STOPPING:
            self._ears.on_problem("`stopping` came without a stop; HKube's worker would exit 10 s later")
        elif self._loop.clock() - self._stop_began < STOPPING_S:
            self._listen("no `stopping` and no `stopped` for 10 s; HKube's worker would end the container")

    def _listen(self, problem: str) -> None:
        """Have the problem told, unless there is a sign within the time HKube's worker gives."""
        self._hush()
        self._sign = self._loop.after(SILENCE_S, lambda: self._ears.on_problem(problem))

    def _hush(self) -> None:
        if self._sign is not None:
            self._sign.cancel()
            self._sign = None
