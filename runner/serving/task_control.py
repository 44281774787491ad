"""The current task and its state: the one place where an event changes what is going on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..protocol.task_state import TABLE, Action, Event, State
from .active_task import ActiveTask
from .notices import TaskNotices


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

    def step(self, event: Event, data: Any = None) -> None:
        """Do what the table says of this event in this state; an event without a row is reported."""
        before = self.state
        row = TABLE.get((before, event))
        if row is None:
            self._notices.unexpected(before, event)
            return
        after, actions = row
        self.state = after
        if before is not after and self._notices.shows_states:
            self._notices.state_changed(self.number, before, after)
        for action in actions:
            if (do := self.actions.get(action)) is not None:
                do()
            else:
                self.actions_with_data[action](data)
