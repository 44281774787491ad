"""The current task and its state: the one place where an event changes what is going on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..protocol.task_state import TABLE, Action, Event, State
from .active_task import ActiveTask
from .notices import TaskNotices

#: The next state, and what is done for each action of the row: a function, and whether it takes the data.
Step = tuple[State, tuple[tuple[Callable[..., object], bool], ...]]


class TaskControl:
    """Takes events through the table of protocol/task_state.py, and has the actions of their rows done."""

    def __init__(self, notices: TaskNotices) -> None:
        self._notices = notices
        self.state = State.IDLE  #: the state of the current task; only step() changes it
        self.task: ActiveTask | None = None
        self.number = 0  #: of the last task; messages of the child carry it
        self.exit_status = 0  #: of hkrunner, once an end was asked for
        #: What is done for each action.
        self.actions: dict[Action, Callable[[], object]] = {}
        #: What is done for those that take the data of their event: the worker's message for INITIALIZE, the
        #: options for STOP and EXIT.
        self.actions_with_data: dict[Action, Callable[[Any], object]] = {}
        self._steps: dict[tuple[State, Event], Step] = {}  #: of the rows that were needed so far

    def step(self, event: Event, data: Any = None) -> None:
        """Do what the table says of this event in this state; an event without a row is reported."""
        before = self.state
        step = self._steps.get((before, event)) or self._prepare(before, event)
        if step is None:
            self._notices.unexpected(before, event)
            return
        after, calls = step
        self.state = after
        if self._notices.shows_states and before is not after:
            self._notices.state_changed(self.number, before, after)
        for do, takes_data in calls:
            if takes_data:
                do(data)
            else:
                do()

    def _prepare(self, state: State, event: Event) -> Step | None:
        row = TABLE.get((state, event))
        if row is None:
            return None
        calls: list[tuple[Callable[..., object], bool]] = []
        for action in row.actions:
            do = self.actions.get(action)
            calls.append((do, False) if do is not None else (self.actions_with_data[action], True))
        step = self._steps[state, event] = row.state, tuple(calls)
        return step
