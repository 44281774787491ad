"""A supervisor with a recording link, fake children, and a clock that the test sets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, cast

import pytest
from hkrunner.boards.runs.store import Store
from hkrunner.runner.console.event_sink import EventSink
from hkrunner.runner.io.loop import Loop
from hkrunner.runner.link.answer_blob import AnswerBlob
from hkrunner.runner.link.connection import BLOB_MIN, MessageMemory, WorkerMessage
from hkrunner.runner.protocol.messages import Failure
from hkrunner.runner.protocol.result import Result
from hkrunner.runner.protocol.task_state import State
from hkrunner.runner.serving import supervisor as supervisor_module
from hkrunner.runner.serving.child_pool import ChildPool
from hkrunner.runner.serving.run_context import RunContext
from hkrunner.runner.serving.supervisor import Hooks, Supervisor
from hkrunner.runner.settings.settings import CodeSource, Records, Serving, Settings
from hkrunner.sandbox.parent.child_handle import Child, ChildListener
from hkrunner.sandbox.shared.channel import seal
from hkrunner.sandbox.shared.entry import Location
from hkrunner.sandbox.shared.limits import Limits
from hkrunner.sandbox.shared.message_format import Memfd
from hkrunner.sandbox.shared.messages import (
    Done,
    Failed,
    Initialized,
    StopReturned,
    TaskRead,
)

from .clock import Clock
from .fake_child import FakeChild

URL = "ws://worker"
WHERE = Location("/code", "main", "start", "/code/main.py")


class RecordingLink:
    """A link that records what is posted; the test delivers the messages of the worker."""

    def __init__(self, loop: Loop, listener: Any, url: str, **more: object) -> None:
        self.url = url
        self.listener = listener
        self.is_open = True
        self.owes_answer = False
        self.congested = False
        self.on_relieved: Callable[[], None] | None = None
        self.posted: list[dict[str, Any]] = []
        self.clears = 0
        self.is_closed = False
        self.cut_short = ""

    def open(self) -> None:
        pass

    def post(
        self,
        data: bytes,
        source: AnswerBlob | None = None,
        *,
        final: bool = False,
        soon: bool = False,
        prelude: bytes = b"",
    ) -> bool:
        if source is not None:
            data = source.read(0, source.size)
            source.close()
        if prelude:
            self.posted.append(json.loads(prelude))
        self.posted.append(json.loads(data))
        return self.congested

    def worker_spoke(self) -> None:
        pass

    def clear(self) -> None:
        self.clears += 1

    def close(self, cut_short: str = "") -> None:
        self.is_closed, self.cut_short = True, cut_short


class RecordingOutput:
    """A terminal that records its lines."""

    verbose = False
    holding = False

    def __init__(self, events: EventSink) -> None:
        self.lines: list[str] = []
        self.printed = b""
        self.events = events

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = announce = say

    def when_released(self, callback: Callable[[], None]) -> None:
        raise AssertionError("nothing is held")

    def debug(self, text: str) -> None:
        pass

    def user(self, stream: str, data: bytes) -> None:
        self.printed += data
        self.events.printed(stream, data)

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.lines)


class FakeServing:
    """A supervisor with its link, children, terminal and clock."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        *,
        methods: tuple[str, ...] | None = ("init", "start"),
        one_core: bool = False,
        store: Store | None = None,
        child: Callable[[ChildListener], Any] | None = None,
        loop: Loop | None = None,
        clock: Clock | None = None,
        state_dir: str | None = None,
        keep_values_bytes: int | None = None,
        argv: tuple[str, ...] = (),
        limits: Limits | None = None,
        events: EventSink | None = None,
        **serving: Any,
    ) -> None:
        """Make the supervisor and its first child.

        methods: the functions of the code; None: the code is not loaded yet
        child: makes a child; FakeChild by default
        argv: of a program that is the algorithm
        events: hears what happens, as of a run with --output jsonl
        serving: fields of the settings
        """
        patch.setattr(supervisor_module, "Link", RecordingLink)
        self.clock = clock or Clock()
        self.loop = loop or Loop(clock=self.clock)
        self._owns_loop = loop is None
        self.loop.cores = 1 if one_core else 2
        self.output = RecordingOutput(events or EventSink())
        self.results: list[Result] = []
        self.load_failures: list[Failure] = []
        self.finished = 0
        self.children: list[FakeChild] = []
        self.refuses_children = False
        self._make = child
        options = Settings(
            CodeSource("/code", "main.py", argv=argv),
            Serving(URL, **serving),
            Records(state_dir, keep_values_bytes=keep_values_bytes),
            limits=limits or Limits(),
        )
        hooks = Hooks(
            on_result=self.results.append,
            on_load_failed=self.load_failures.append,
            on_finished=self._finish,
        )
        pool = ChildPool(self.loop, options, WHERE, {}, self._attach)
        output = cast(Any, self.output)
        context = RunContext(self.loop, options, WHERE, output, store)
        self.supervisor = Supervisor(context, hooks, pool)
        self.supervisor.preload()
        self.supervisor.connect(URL)
        self.link = cast(RecordingLink, self.supervisor._replies.link)
        if methods is not None:
            self.child.loads(*methods)

    def _attach(self, loop: Loop, listener: ChildListener, setup: object) -> Child:
        if self.refuses_children:
            raise OSError(11, "Resource temporarily unavailable")
        if self._make is not None:
            return cast(Child, self._make(listener))
        self.children.append(FakeChild(listener, len(self.children) + 1))
        return cast(Child, self.children[-1])

    def _finish(self) -> None:
        self.finished += 1

    def close(self) -> None:
        if self._owns_loop:
            self.loop.close()

    @property
    def child(self) -> FakeChild:
        """The child that serves; the one that was started last if none serves."""
        serving = self.supervisor._pool.child
        return self.children[-1] if serving is None else cast(FakeChild, serving)

    @property
    def state(self) -> State:
        return self.supervisor._control.state

    @property
    def number(self) -> int:
        """The running number of the last task."""
        return self.supervisor._control.number

    def turn(self) -> None:
        """Let the loop run everything that is due."""
        self.loop.turn(0)

    def after(self, seconds: float) -> None:
        """Advance the clock, and run what is due."""
        self.clock.now += seconds
        self.turn()

    # ---- the worker

    def worker(self, command: str, data: object = None) -> None:
        """Deliver this message of the worker."""
        wire = json.dumps({"command": command, "data": data}).encode()
        if len(wire) < BLOB_MIN:
            self.link.listener.on_link_message(WorkerMessage(wire))
            return
        memory = MessageMemory(len(wire))
        memory.size, memory.map[:] = len(wire), wire
        self.link.listener.on_link_message(WorkerMessage(b"", memory))

    def initialize(self, task: str | None = "t1", *, job: str = "j", size: int = 0) -> None:
        """Deliver an `initialize` of the worker, with an input of `size` bytes."""
        names = {} if task is None else {"taskId": task, "jobId": job}
        self.worker("initialize", {**names, "input": ["x" * size]})

    def start(self) -> None:
        self.worker("start")

    def stop(self, *, force: bool = True) -> None:
        self.worker("stop", {"forceStop": force})

    def exit(self) -> None:
        self.worker("exit", {"exitCode": 7})

    @property
    def commands(self) -> list[str]:
        """Return the commands of the messages that were posted to the worker."""
        return [str(message["command"]) for message in self.link.posted]

    # ---- the child, for the current task

    def child_reads(self) -> None:
        self.child.says(TaskRead({"taskId": "t1", "jobId": "j"}), self.number)

    def child_initializes(self) -> None:
        self.child.says(Initialized(), self.number)

    def child_answers(self, data: object = 1) -> None:
        wire = json.dumps({"command": "done", "data": data}, separators=(",", ":")).encode()
        self.child.says(Done(wire), self.number)

    def child_fails(self, code: str = "ALGORITHM_ERROR", *, ends: bool = False) -> None:
        self.child.says(Failed(code, f"{code}: no", "", ends), self.number)

    def child_has_stopped(self, error: str = "") -> None:
        self.child.says(StopReturned(error), self.number)

    def run_to(self, state: State) -> None:
        """Bring the first task, of code that has an init(), to this state."""
        _WAYS[state](self)
        assert self.state is state


def _initializing(one: FakeServing) -> None:
    one.initialize()


def _starting(one: FakeServing) -> None:
    one.initialize()
    one.start()


def _initialized(one: FakeServing) -> None:
    one.initialize()
    one.child_reads()
    one.child_initializes()


def _running(one: FakeServing) -> None:
    _initialized(one)
    one.start()


def _lasting(one: FakeServing) -> None:
    """Let the warden begin to measure the task."""
    _running(one)
    one.after(0.06)
    one.child.samples(answers=one.child.asked[-1])


def _answered(one: FakeServing) -> None:
    _lasting(one)
    one.child_answers()


def _stopping(one: FakeServing) -> None:
    _running(one)
    one.stop()


def _stopped(one: FakeServing) -> None:
    _lasting(one)
    one.stop()
    one.child_answers()


def _killing(one: FakeServing) -> None:
    _stopping(one)
    one.after(5.1)


def _exiting(one: FakeServing) -> None:
    _running(one)
    one.supervisor.shutdown(130)


_WAYS: dict[State, Callable[[FakeServing], None]] = {
    State.IDLE: lambda one: None,
    State.INITIALIZING: _initializing,
    State.STARTING: _starting,
    State.INITIALIZED: _initialized,
    State.RUNNING: _running,
    State.ANSWERED: _answered,
    State.STOPPING: _stopping,
    State.STOPPED: _stopped,
    State.KILLING: _killing,
    State.EXITING: _exiting,
}


Serve = Callable[..., FakeServing]


def blob_of(text: bytes) -> Memfd:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, text)
    seal(fd)
    return Memfd(fd, len(text))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
