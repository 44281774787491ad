"""The life of a task as a table: State x Event -> State, Actions. No I/O, no time, no payloads.

Everything that decides what is answered when stands in TABLE; the supervisor carries the actions out.
An event that has no row is an error of whoever sent it: it names event and state and changes nothing.
Events that may honestly come late are rows without actions.

What the table keeps (HKube core/worker lib/states/stateManager.js dies or mixes tasks up otherwise):
one `initialized` for an initialize; one final answer for a task; one `stopped` for each stop that
arrives, even if the answer was on its way; nothing of an old task into a new one.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class State(Enum):
    """Where the current task stands."""

    __hash__ = object.__hash__  # Enum's own is written in Python: looked up several times a task

    IDLE = auto()  #: no task
    INITIALIZING = auto()  #: the child loads the code if need be, and runs init()
    STARTING = auto()  #: as INITIALIZING, and `start` is there already: HKube's debug server does not wait
    INITIALIZED = auto()  #: `initialized` is sent, `start` has not come
    RUNNING = auto()  #: start() runs
    STOPPING = auto()  #: the child was asked to stop, within the grace
    KILLING = auto()  #: the grace is over, the tree is being killed
    EXITING = auto()  #: the child was asked to end for good
    EXITED = auto()  #: nothing is left


class Event(Enum):
    """What can happen to it."""

    __hash__ = object.__hash__

    INITIALIZE = auto()  #: the worker's, for a new task
    START = auto()
    STOP = auto()
    EXIT = auto()  #: the worker's, or the first SIGINT or SIGTERM of ours
    KILL_NOW = auto()  #: the second one
    CHILD_INITIALIZED = auto()  #: the user's init() has returned
    CHILD_DONE = auto()  #: start() has returned, the answer is there
    CHILD_FAILED = auto()  #: the code raised, or could not be loaded
    CHILD_GONE = auto()  #: the child's tree is dead, however it came to that
    CHILD_AGAIN = auto()  #: it died before it had begun with the task, which another one takes
    GRACE_OVER = auto()


class Action(Enum):
    """What is to be done, in the order of the row."""

    __hash__ = object.__hash__

    BEGIN = auto()  #: open the task, hand it to a child (started if there is none)
    ABANDON = auto()  #: the worker has moved on: kill this child in the background, keep its outcome
    CHILD_START = auto()
    CHILD_STOP = auto()  #: have stop() called
    CHILD_EXIT = auto()  #: have it end: stop() if a task runs, then exit()
    CHILD_KILL = auto()
    ARM_GRACE = auto()
    DISARM_GRACE = auto()
    POST_INITIALIZED = auto()
    POST_STARTED = auto()
    POST_RESULT = auto()  #: the child's `done`
    POST_FAILURE = auto()  #: `errorMessage`: what the child told
    POST_DEATH = auto()  #: `errorMessage`: how the child ended
    POST_STOPPED = auto()
    KEEP_STOPPED = auto()  #: record the task as stopped; no answer is wanted any more
    REPLACE = auto()  #: the child is gone: start the next one, if that makes sense
    FINISH = auto()  #: everything is over: close the link, end the loop


class Row(NamedTuple):
    """What an event leads to."""

    state: State
    actions: tuple[Action, ...] = ()


S, E, A = State, Event, Action

TABLE: dict[tuple[State, Event], Row] = {
    # ---- the straight way
    (S.IDLE, E.INITIALIZE): Row(S.INITIALIZING, (A.BEGIN,)),
    (S.INITIALIZING, E.CHILD_INITIALIZED): Row(S.INITIALIZED, (A.POST_INITIALIZED,)),
    (S.INITIALIZED, E.START): Row(S.RUNNING, (A.CHILD_START, A.POST_STARTED)),
    (S.RUNNING, E.CHILD_DONE): Row(S.IDLE, (A.POST_RESULT,)),
    (S.INITIALIZING, E.START): Row(S.STARTING),
    (S.STARTING, E.CHILD_INITIALIZED): Row(S.RUNNING, (A.POST_INITIALIZED, A.CHILD_START, A.POST_STARTED)),
    # The debug server says initialize and start again after a reconnect.
    (S.STARTING, E.START): Row(S.STARTING),
    (S.RUNNING, E.START): Row(S.RUNNING),
    # A child that died without having begun.
    (S.INITIALIZING, E.CHILD_AGAIN): Row(S.INITIALIZING),
    (S.STARTING, E.CHILD_AGAIN): Row(S.STARTING),
    (S.INITIALIZED, E.CHILD_AGAIN): Row(S.INITIALIZING),
    # ---- no result
    (S.INITIALIZING, E.CHILD_FAILED): Row(S.IDLE, (A.POST_FAILURE,)),
    (S.STARTING, E.CHILD_FAILED): Row(S.IDLE, (A.POST_FAILURE,)),
    # There is no init(), and it was told at once; now the input cannot be read.
    (S.INITIALIZED, E.CHILD_FAILED): Row(S.IDLE, (A.POST_FAILURE,)),
    (S.RUNNING, E.CHILD_FAILED): Row(S.IDLE, (A.POST_FAILURE,)),
    (S.INITIALIZING, E.CHILD_GONE): Row(S.IDLE, (A.POST_DEATH, A.REPLACE)),
    (S.STARTING, E.CHILD_GONE): Row(S.IDLE, (A.POST_DEATH, A.REPLACE)),
    (S.INITIALIZED, E.CHILD_GONE): Row(S.IDLE, (A.POST_DEATH, A.REPLACE)),
    (S.RUNNING, E.CHILD_GONE): Row(S.IDLE, (A.POST_DEATH, A.REPLACE)),
    (S.IDLE, E.CHILD_GONE): Row(S.IDLE, (A.REPLACE,)),
    # A preloaded child that could not load its code: the next initialize tries again.
    (S.IDLE, E.CHILD_FAILED): Row(S.IDLE),
    # ---- stop
    (S.INITIALIZING, E.STOP): Row(S.STOPPING, (A.CHILD_STOP, A.ARM_GRACE)),
    # start() was not called yet, and will not be: the child takes the next task instead of a START.
    (S.INITIALIZED, E.STOP): Row(S.IDLE, (A.POST_STOPPED,)),
    (S.STARTING, E.STOP): Row(S.STOPPING, (A.CHILD_STOP, A.ARM_GRACE)),
    (S.RUNNING, E.STOP): Row(S.STOPPING, (A.CHILD_STOP, A.ARM_GRACE)),
    (S.STOPPING, E.CHILD_DONE): Row(S.IDLE, (A.DISARM_GRACE, A.POST_STOPPED)),
    (S.STOPPING, E.CHILD_FAILED): Row(S.IDLE, (A.DISARM_GRACE, A.POST_STOPPED)),
    (S.STOPPING, E.CHILD_INITIALIZED): Row(S.IDLE, (A.DISARM_GRACE, A.POST_STOPPED)),
    (S.STOPPING, E.CHILD_GONE): Row(S.IDLE, (A.DISARM_GRACE, A.POST_STOPPED, A.REPLACE)),
    (S.STOPPING, E.GRACE_OVER): Row(S.KILLING, (A.CHILD_KILL,)),
    (S.KILLING, E.CHILD_GONE): Row(S.IDLE, (A.POST_STOPPED, A.REPLACE)),
    # The answer was already on its way when the worker asked: it still waits for one `stopped`.
    (S.IDLE, E.STOP): Row(S.IDLE, (A.POST_STOPPED,)),
    # A second stop while the first is served: one `stopped` answers both.
    (S.STOPPING, E.STOP): Row(S.STOPPING),
    (S.KILLING, E.STOP): Row(S.KILLING),
    # ---- late, and harmless
    (S.STOPPING, E.START): Row(S.STOPPING),
    (S.KILLING, E.START): Row(S.KILLING),
    (S.IDLE, E.START): Row(S.IDLE),
    (S.KILLING, E.CHILD_INITIALIZED): Row(S.KILLING),
    (S.KILLING, E.CHILD_DONE): Row(S.KILLING),
    (S.KILLING, E.CHILD_FAILED): Row(S.KILLING),
    # ---- a worker that was restarted, or gave the task up, begins another one
    (S.INITIALIZING, E.INITIALIZE): Row(S.INITIALIZING, (A.KEEP_STOPPED, A.ABANDON, A.BEGIN)),
    (S.INITIALIZED, E.INITIALIZE): Row(S.INITIALIZING, (A.KEEP_STOPPED, A.BEGIN)),
    (S.STARTING, E.INITIALIZE): Row(S.INITIALIZING, (A.KEEP_STOPPED, A.ABANDON, A.BEGIN)),
    (S.RUNNING, E.INITIALIZE): Row(S.INITIALIZING, (A.KEEP_STOPPED, A.ABANDON, A.BEGIN)),
    (S.STOPPING, E.INITIALIZE): Row(S.INITIALIZING, (A.DISARM_GRACE, A.KEEP_STOPPED, A.ABANDON, A.BEGIN)),
    (S.KILLING, E.INITIALIZE): Row(S.INITIALIZING, (A.KEEP_STOPPED, A.ABANDON, A.BEGIN)),
    # ---- the end of everything
    (S.IDLE, E.EXIT): Row(S.EXITING, (A.CHILD_EXIT, A.ARM_GRACE)),
    (S.INITIALIZING, E.EXIT): Row(S.EXITING, (A.CHILD_EXIT, A.ARM_GRACE)),
    (S.INITIALIZED, E.EXIT): Row(S.EXITING, (A.CHILD_EXIT, A.ARM_GRACE)),
    (S.STARTING, E.EXIT): Row(S.EXITING, (A.CHILD_EXIT, A.ARM_GRACE)),
    (S.RUNNING, E.EXIT): Row(S.EXITING, (A.CHILD_EXIT, A.ARM_GRACE)),
    (S.STOPPING, E.EXIT): Row(S.EXITING, (A.DISARM_GRACE, A.CHILD_EXIT, A.ARM_GRACE)),
    (S.KILLING, E.EXIT): Row(S.EXITING),
    (S.EXITING, E.GRACE_OVER): Row(S.EXITING, (A.CHILD_KILL,)),
    (S.EXITING, E.KILL_NOW): Row(S.EXITING, (A.CHILD_KILL,)),
    (S.EXITING, E.CHILD_GONE): Row(S.EXITED, (A.DISARM_GRACE, A.KEEP_STOPPED, A.FINISH)),
    **{
        (S.EXITING, event): Row(S.EXITING)
        for event in (
            E.INITIALIZE,
            E.START,
            E.STOP,
            E.EXIT,
            E.CHILD_INITIALIZED,
            E.CHILD_DONE,
            E.CHILD_FAILED,
        )
    },
    **{(S.EXITED, event): Row(S.EXITED) for event in E},
}


class UnexpectedEvent(Exception):
    """An event that has no row; the state has not changed."""

    def __init__(self, event: Event, state: State) -> None:
        super().__init__(f"{event.name} in state {state.name}")
        self.event = event
        self.state = state


class Machine:
    """The state of the current task."""

    def __init__(self) -> None:
        self.state = State.IDLE

    def step(self, event: Event) -> tuple[Action, ...]:
        """Move on; return what is to be done. Raises UnexpectedEvent, and then nothing has changed."""
        row = TABLE.get((self.state, event))
        if row is None:
            raise UnexpectedEvent(event, self.state)
        self.state = row.state
        return row.actions
