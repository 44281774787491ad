"""A worker, children and their wardens that say and do what real ones would, each as slowly as a test wants.

A walk chooses at random what happens next. What is said travels in queues, so it may be heard much later.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Mapping
from typing import Any

import pytest
from hkrunner.runner.protocol.task_state import State
from hkrunner.sandbox.parent.child_handle import ChildListener
from hkrunner.sandbox.shared.message_format import PROTOCOL_VERSION, ProcessMessage
from hkrunner.sandbox.shared.messages import (
    Begin,
    BeginAndStart,
    Done,
    Failed,
    Initialize,
    Initialized,
    Loaded,
    Start,
    TaskRead,
    UseFolder,
)
from hkrunner.sandbox.shared.outcome import Cause, Exit

from .fake_child import FakeChild
from .fake_serving import FakeServing

#: What ends a walk soonest, of what children and wardens can do.
_SOONEST = ("heard", "measured", "reported", "killed", "loads", "reads", "init_returns", "answers", "leaves")
#: What is told of a task that ends in one of these ways.
_CODES = {
    Cause.EXITED: "EXITED",
    Cause.SIGNALLED: "KILLED_BY_SIGNAL",
    Cause.TASK_TIMEOUT: "TASK_TIMEOUT",
}


class SlowChild(FakeChild):
    """A child and its warden; each method that a walk may call is one step of it."""

    def __init__(self, walk: Walk, listener: ChildListener, number: int) -> None:
        super().__init__(listener, number)
        self._walk = walk
        self._queue: deque[tuple[int, ProcessMessage]] = deque()
        self._said: deque[tuple[ProcessMessage, int]] = deque()
        self._asked: deque[int] = deque()
        self._at = "loading"
        self._task = 0
        self._is_announced = False
        self._exit: Exit | None = None
        self.has_loaded = False
        #: Whether it has begun a task, and has died by itself or for a stop: the next one is due then.
        self.has_begun = False

    # ---- requests of the supervisor

    @property
    def is_quiet(self) -> bool:  # type: ignore[override]
        return not self._said and self._exit is None and not self.exits

    @is_quiet.setter
    def is_quiet(self, value: bool) -> None:
        pass

    def send(self, task: int, *messages: ProcessMessage) -> None:
        super().send(task, *messages)
        self._queue += [(task, one) for one in messages]

    def ask(self, number: int, *, began_at: float | None = None) -> None:
        super().ask(number, began_at=began_at)
        if self._exit is None:
            self._asked.append(number)

    # ---- steps

    def steps(self) -> list[str]:
        """Return the steps that it can take now."""
        if self.is_gone:
            return []
        found = ["heard"] * bool(self._said) + ["measured"] * bool(self._asked)
        if self._exit is not None:
            return [*found, "reported"]
        waits = self._at in ("waiting", "opening", "begun")
        if waits and self._queue:
            found.append("reads")
        elif (waits and self.exits) or self._at == "leaving":
            found.append("leaves")
        found += {"loading": ["loads"], "init": ["init_returns", "fails"]}.get(self._at, [])
        if self._at == "running":
            found += ["answers", "answers", "fails", "calls_exit"]
        return [*found, *(["exits", "crashes"] if self.kill_cause is None else ["killed"])]

    def heard(self) -> None:
        message, task = self._said.popleft()
        if isinstance(message, Loaded):
            self.loaded, self.has_init = True, "init" in message.methods
        self.says(message, task)

    def measured(self) -> None:
        self.samples(answers=self._asked.popleft())

    def loads(self, *methods: str) -> None:
        self._at, self.has_loaded = "waiting", True
        self._say(Loaded(PROTOCOL_VERSION, list(self._walk.methods), "3.11", {}), 0)

    def reads(self) -> None:
        task, message = self._queue.popleft()
        if self._at == "opening" and isinstance(message, UseFolder):
            self._opened(message.is_announced)
        elif self._at == "begun" and isinstance(message, Start):
            assert task == self._task, "the start of another task"
            self._at, self.has_begun = "running", True
        elif isinstance(message, Begin | Initialize):
            self._task, is_whole = task, isinstance(message, Begin)
            self._at = "opening"
            if not is_whole or "init" in self._walk.methods:
                self.has_begun = True
                self._say(TaskRead({"taskId": f"t{task}", "jobId": "j"}))
            if isinstance(message, Begin):
                self._opened(message.is_announced)
            if isinstance(message, BeginAndStart):
                self._at, self.has_begun = "running", True
        else:
            self._at = "waiting"

    def _opened(self, is_announced: bool) -> None:
        self._is_announced, self._at = is_announced, "init"
        if "init" not in self._walk.methods:
            self.init_returns()

    def init_returns(self) -> None:
        self._at = "begun"
        if not self._is_announced:
            self._say(Initialized())

    def answers(self) -> None:
        data = {"command": "done", "data": self._task}
        self._end_task("done", Done(json.dumps(data, separators=(",", ":")).encode()))

    def fails(self) -> None:
        self._end_task("ALGORITHM_ERROR", Failed("ALGORITHM_ERROR", "no", "", False))

    def calls_exit(self) -> None:
        self._end_task("EXITED", Failed("EXITED", "sys.exit(3)", "", True))
        self._at = "leaving"

    def leaves(self) -> None:
        self._dies(Cause.EXITED, code=0)

    def exits_itself(self) -> None:
        self._dies(Cause.EXITED, code=3)

    def crashes(self) -> None:
        self._dies(Cause.SIGNALLED, signal=11)

    def killed(self) -> None:
        assert self.kill_cause is not None
        self._dies(self.kill_cause)

    def reported(self) -> None:
        """The warden says how it has ended; all that it has said is heard before."""
        while self._said:
            self.heard()
        self.goes(self._exit)

    def _say(self, message: ProcessMessage, task: int | None = None) -> None:
        self._said.append((message, self._task if task is None else task))

    def _end_task(self, outcome: str, message: ProcessMessage) -> None:
        self._walk.outcomes.setdefault(self._task, set()).add(outcome)
        self._say(message)
        self._at = "waiting"

    def _dies(self, cause: Cause, **more: Any) -> None:
        self._asked.clear()
        self._exit = Exit(cause, pid=self.pid, loaded=self.has_loaded, **more)
        self._walk.deaths.add(_CODES.get(cause, ""))


class Walk:
    """A supervisor among slow peers. `steps`: what has happened, to be read in a failure."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        seed: int,
        methods: tuple[str, ...],
        one_core: bool,
        serving: Mapping[str, Any],
    ) -> None:
        self.methods = methods
        self.steps: list[str] = []
        self.children: list[SlowChild] = []
        self.outcomes: dict[int, set[str]] = {}  #: of each task, by its number, as its children have said
        self.deaths: set[str] = set()
        self._random = random.Random(seed)
        self._serving: SlowChild | None = None
        self._tasks = 0
        self._worker = "ready"
        self._is_started = False
        self._heard = 0  #: how many of our messages the worker has read
        self._stop_share = self._random.choice((0.05, 0.3, 1.0))
        self.one = FakeServing(patch, methods=None, one_core=one_core, child=self._make, **serving)

    def _make(self, listener: ChildListener) -> SlowChild:
        self.children.append(SlowChild(self, listener, len(self.children) + 1))
        return self.children[-1]

    def run(self, steps: int) -> None:
        """Take some steps at random, then those that end all tasks, and end the supervisor."""
        for _ in range(steps):
            self._do(self._random.choice(self._possible()))
        while (step := self._next()) is not None:
            assert len(self.steps) < 10 * steps, f"the worker waits in {self._worker}"
            self._do(step)
        assert (self._worker, self.one.state) == ("ready", State.IDLE)
        assert [result.task for result in self.one.results] == [f"t{i + 1}" for i in range(self._tasks)]
        self.one.supervisor.shutdown(0)
        while not self.one.finished:
            assert len(self.steps) < 20 * steps, "it does not end"
            self._do(self._next() or "after 5.1")

    def _possible(self) -> list[str]:
        steps = ["after 0", f"after {self._random.choice((0.002, 0.06))}"]
        if self._heard < len(self.one.link.posted):
            steps += ["worker hears"] * 2
        if self._worker == "ready":
            steps += ["worker initialize"] * 2
        if self._worker == "working" and not self._is_started:
            steps += ["worker start"] * 2
        if self._worker in ("init", "working") and self._random.random() < self._stop_share:
            steps.append("worker stop")
        if self._random.random() < 0.02:
            steps.append("after 5.1")
        for child in self.children:
            for step in child.steps():
                if step not in ("exits", "crashes") or self._random.random() < 0.08:
                    steps.append(f"{child.number} {step}")
        return steps

    def _next(self) -> str | None:
        """Return the step that leads to the end of all tasks; None: they have ended."""
        if self._heard < len(self.one.link.posted):
            return "worker hears"
        if self._worker == "working" and not self._is_started:
            return "worker start"
        for child in self.children:
            for step in _SOONEST:
                if step in child.steps():
                    return f"{child.number} {step}"
        return None if self.one.state is State.IDLE else "after 5.1"

    def _do(self, step: str) -> None:
        self.steps.append(step)
        who, what = step.split(" ")
        if who == "after":
            self.one.after(float(what))
        elif who == "worker":
            getattr(self, f"_{what}")()
        else:
            child = self.children[int(who) - 1]
            getattr(child, "exits_itself" if what == "exits" else what)()
        pool = self.one.supervisor._pool
        self._serving = pool.child or self._serving  # type: ignore[assignment]
        last = self._serving
        if self.one.state is State.IDLE and last is not None and last.is_gone:
            is_due = last.has_begun and last.has_loaded and last.kill_cause is None
            assert pool.child is not None or not is_due, "the next child is on its way"

    # ---- steps of the worker

    def _initialize(self) -> None:
        self._tasks += 1
        self._worker, self._is_started = "init", False
        self.one.initialize(f"t{self._tasks}")

    def _start(self) -> None:
        self._is_started = True
        self.one.start()

    def _stop(self) -> None:
        self._worker = "stop"
        self.one.stop()

    def _hears(self) -> None:
        message = self.one.link.posted[self._heard]
        self._heard += 1
        command = message["command"]
        if self._worker == "stop":  # the worker waits for `stopped` alone
            self._worker = "ready" if command == "stopped" else "stop"
        elif command == "initialized":
            assert self._worker == "init", f"`initialized` in {self._worker}"
            self._worker = "working"
        elif command in ("done", "errorMessage"):
            assert self._worker == "working" or (self._worker, command) == ("init", "errorMessage")
            told = command if command == "done" else message["error"]["code"]
            assert told in self.outcomes.get(self._tasks, set()) | self.deaths, "it is of this task"
            assert command != "done" or message["data"] == self._tasks
            self._worker = "ready"
        else:
            assert command in ("started", "alive"), f"`{command}` in {self._worker}"
