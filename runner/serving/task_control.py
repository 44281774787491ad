"""The current task and its state: the one place where an event changes what is going on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..protocol.task_state import Action, Event, State, TaskMachine, UnexpectedEvent
from .active_task import ActiveTask
from .notices import Notices


class TaskControl:
    """Takes events through the table of protocol/task_state.py, and has the actions of their rows done."""

    def __init__(self, notices: Notices) -> None:
        self._machine = TaskMachine()
        self._notices = notices
        self.task: ActiveTask | None = None
        self.number = 0  #: of the last task; frames of the child carry it
        self.exit_status = 0  #: of hkrunner, once an end was asked for
        #: What is done for each action. Called with the data of the event: the worker's message for
        #: INITIALIZE, the options for STOP and EXIT, None for every other.
        self.actions: dict[Action, Callable[[Any], object]] = {}

    @property
    def state(self) -> State:
        """Where the current task stands."""
        return self._machine.state

    def step(self, event: Event, data: Any = None) -> None:
        """Do what the table says of this event in this state; an event without a row is reported."""
        machine = self._machine
        before = machine.state
        try:
            actions = machine.step(event)
        except UnexpectedEvent as error:
            self._notices.unexpected(error)
            return
        if before is not machine.state:
            self._notices.state_changed(self.number, before, machine.state)
        for action in actions:
            self.actions[action](data)
