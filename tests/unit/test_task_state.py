"""The table of a task's life: each row, and walks of any length through it."""

from __future__ import annotations

import itertools
from collections import deque
from functools import partial
from typing import cast

import pytest
from hkrunner.runner.protocol.task_state import (
    MEASURING,
    NOT_BEGUN,
    TABLE,
    Action,
    Event,
    Row,
    State,
)
from hkrunner.runner.serving.notices import TaskNotices
from hkrunner.runner.serving.task_control import TaskControl
from hypothesis import given
from hypothesis import strategies as st

FINAL = {Action.POST_ANSWER, Action.POST_DEATH}
# These step the next event themselves.
LEAD_ON = {Action.BEGIN, Action.HAND_OVER, Action.MEASURE}
# What the worker asks for, and what only a child can do.
WORKERS = (Event.INITIALIZE, Event.START, Event.STOP, Event.EXIT)
ACTIVE = {*NOT_BEGUN, *MEASURING, State.RUNNING, State.STOPPING, State.KILLING}
EVERY_PAIR = list(itertools.product(State, Event))


class TaskMachine:
    """A state, and what its events lead to."""

    shows_states = False  # these are its own notices, too

    def __init__(self) -> None:
        self.control = TaskControl(cast(TaskNotices, self))
        self.control.actions = {one: partial(self._act, one) for one in Action}
        self.done: list[Action] = []
        self.was_unexpected: tuple[State, Event] | None = None

    @property
    def state(self) -> State:
        return self.control.state

    def step(self, event: Event) -> tuple[Action, ...]:
        """Return what was done; `was_unexpected` says whether the event has no row."""
        self.done, self.was_unexpected = [], None
        self.control.step(event)
        return tuple(self.done)

    def _act(self, action: Action) -> None:
        self.done.append(action)

    def unexpected(self, state: State, event: Event) -> None:
        self.was_unexpected = state, event


def machine_in(state: State) -> TaskMachine:
    machine = TaskMachine()
    machine.control.state = state
    return machine


def name(value: object) -> str:
    return getattr(value, "name", "")


@pytest.mark.parametrize(("state", "event"), TABLE, ids=name)
def test_a_row_is_carried_out(state: State, event: Event) -> None:
    machine = machine_in(state)
    assert machine.step(event) == TABLE[state, event].actions
    assert machine.state is TABLE[state, event].state


@pytest.mark.parametrize(("state", "event"), [one for one in EVERY_PAIR if one not in TABLE], ids=name)
def test_an_event_without_a_row_changes_nothing_and_is_named(state: State, event: Event) -> None:
    machine = machine_in(state)
    assert machine.step(event) == ()
    assert machine.state is state
    assert machine.was_unexpected == (state, event)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, WORKERS)), ids=name)
def test_the_worker_never_causes_the_end_of_hkrunner(state: State, event: Event) -> None:
    """Any message of the worker at any moment has a row."""
    assert (state, event) in TABLE


@pytest.mark.parametrize("state", State, ids=name)
def test_from_every_state_there_is_a_way_back(state: State) -> None:
    seen, waiting = {state}, deque([state])
    while waiting:
        here = waiting.popleft()
        for (source, _), row in TABLE.items():
            if source is here and row.state not in seen:
                seen.add(row.state)
                waiting.append(row.state)
    assert seen & {State.IDLE, State.EXITED}
    assert State.EXITED in seen


@pytest.mark.parametrize("state", [one for one in State if one in ACTIVE], ids=name)
def test_the_childs_end_ends_its_task_in_every_state(state: State) -> None:
    row = TABLE[state, Event.CHILD_GONE]
    assert row.state is State.IDLE and Action.REPLACE in row.actions
    assert len(FINAL & set(row.actions)) + row.actions.count(Action.POST_STOPPED) == 1


@pytest.mark.parametrize("state", [one for one in State if one is not State.EXITED], ids=name)
def test_an_exit_leads_to_the_end_from_every_state(state: State) -> None:
    machine = machine_in(state)
    machine.step(Event.EXIT)
    assert machine.state is State.EXITING
    assert Action.FINISH in machine.step(Event.CHILD_GONE)
    assert machine.state is State.EXITED


@pytest.mark.parametrize("state", [State.STOPPING, State.EXITING], ids=name)
def test_a_child_that_does_not_end_within_the_grace_is_killed(state: State) -> None:
    machine = machine_in(state)
    assert Action.CHILD_KILL in machine.step(Event.GRACE_OVER)
    machine.step(Event.CHILD_GONE)
    assert machine.state in (State.IDLE, State.EXITED)


def test_a_grace_is_armed_when_a_stop_begins_and_disarmed_when_it_ends() -> None:
    for (source, event), row in TABLE.items():
        waits = {State.STOPPING, State.EXITING}
        enters = row.state in waits and source is not row.state and source is not State.KILLING
        assert (Action.ARM_GRACE in row.actions) == enters, (source, event)
        leaves = source in waits and row.state is not source and event is not Event.GRACE_OVER
        assert (Action.DISARM_GRACE in row.actions) == leaves, (source, event)


def test_a_table_of_rows_names_no_action_twice() -> None:
    for row in TABLE.values():
        assert isinstance(row, Row)
        assert len(set(row.actions)) == len(row.actions)


def test_an_action_that_emits_the_next_event_is_the_last_of_its_row() -> None:
    for row in TABLE.values():
        assert not LEAD_ON & set(row.actions[:-1])


class Worker:
    """What HKube's worker sees of a walk: counts answers as it does, and where it would die or mix up."""

    def __init__(self) -> None:
        self.open = False
        self.initialized = False
        self.stops = 0

    def asks(self, event: Event) -> None:
        if event is Event.INITIALIZE:
            self.open, self.initialized, self.stops = True, False, 0
        elif event is Event.INITIALIZE_AGAIN:
            self.initialized = False
        elif event is Event.STOP:
            self.stops += 1

    def hears(self, action: Action) -> None:
        if action is Action.POST_INITIALIZED:
            assert self.open and not self.initialized, "initialized twice, or unasked"
            self.initialized = True
        elif action is Action.POST_STARTED:
            assert self.open and self.initialized
        elif action in FINAL:
            assert self.open, "a second final answer, or one that nobody waits for"
            self.open = False
        elif action is Action.POST_STOPPED:
            assert self.stops > 0, "`stopped` without a stop"
            self.open, self.stops = False, 0


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_no_walk_answers_a_task_twice_or_stops_unasked(events: list[Event]) -> None:
    machine, worker = TaskMachine(), Worker()
    for event in events:
        before = machine.state
        actions = machine.step(event)
        if machine.was_unexpected:
            assert machine.state is before
            continue
        if before not in (State.EXITING, State.EXITED):
            worker.asks(event)
        for action in actions:
            worker.hears(action)
        if machine.state is State.IDLE:
            assert not worker.open, "back to IDLE, and the worker still waits for its answer"
            assert worker.stops == 0, "back to IDLE, and the worker still waits for `stopped`"
        # Then everything ends, whatever came before.
    for event in (Event.EXIT, Event.GRACE_OVER, Event.CHILD_GONE):
        machine.step(event)
    assert machine.state is State.EXITED


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_no_walk_leaves_a_child_with_two_tasks(events: list[Event]) -> None:
    """A child that works on a task is given another only after it has answered, or was given up."""
    machine, busy = TaskMachine(), False
    for event in events:
        actions = machine.step(event)
        if machine.was_unexpected:
            continue
        if event in (Event.CHILD_DONE, Event.CHILD_FAILED, Event.CHILD_QUITS, Event.CHILD_GONE):
            busy = False
        for action in actions:
            if action is Action.ABANDON:
                busy = False
            elif action is Action.CHILD_START:
                busy = True
            elif action is Action.BEGIN:
                assert not busy, "the last task was still running"
