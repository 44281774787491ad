"""The life of a task as a table: State x Event -> State, Actions. No I/O, no time, no payloads.

Rule 1: everything that decides what the worker is told, and when, is a row of TABLE. The supervisor carries
the actions out. An event without a row is an error of its sender: it names event and state, and changes
nothing. Events that may legitimately arrive late have rows without actions.

What the table guarantees (HKube core/worker lib/states/stateManager.js dies or mixes tasks up otherwise):
one `initialized` for each initialize; one final answer for each task; one `stopped` for each stop that
arrives, even if the answer was on its way; nothing of an old task in a new one.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class State(Enum):
    """The state of the current task."""

    __hash__ = object.__hash__  # Enum's own is written in Python: looked up several times a task

    IDLE = auto()  #: no task
    FETCHING = auto()  #: storage v3: the storage process reads the input; no child has the task
    INITIALIZING = auto()  #: the child loads the code if need be, and runs init()
    STARTING = auto()  #: as INITIALIZING, and `start` has arrived: HKube's debug server does not wait
    INITIALIZED = auto()  #: `initialized` is posted, `start` has not arrived
    REINITIALIZING = auto()  #: as INITIALIZING, in a second child; `initialized` is posted already
    RESTARTING = auto()  #: as STARTING, in a second child; `initialized` is posted already
    RUNNING = auto()  #: start() runs
    ANSWERED = auto()  #: the child has answered; the task's final usage is awaited
    STORING = auto()  #: storage v3: the storage process writes the result, whatever becomes of the child
    STOPPING = auto()  #: the child was asked to stop, and has the grace for it
    STOPPED = auto()  #: the child has stopped the task; the task's final usage is awaited
    KILLING = auto()  #: the grace is over, the process tree is being killed
    EXITING = auto()  #: the child was asked to end for good
    EXITED = auto()  #: no child is left


class Event(Enum):
    """What can happen to the task."""

    __hash__ = object.__hash__

    INITIALIZE = auto()  #: the worker begins a new task
    INITIALIZE_AGAIN = auto()  #: the worker waits for the `initialized` of this task once more
    MUST_FETCH = auto()  #: storage v3: the task's input may be in the storage
    FETCHED = auto()  #: the input is complete
    MUST_STORE = auto()  #: storage v3: the result goes to the storage first
    STORED = auto()  #: the result is in the storage
    STORAGE_FAILED = auto()  #: the input could not be read, or the result not written
    START = auto()
    STOP = auto()
    EXIT = auto()  #: from the worker, or our first SIGINT or SIGTERM
    KILL_NOW = auto()  #: our second SIGINT or SIGTERM
    CHILD_INITIALIZED = auto()  #: the user's init() has returned
    CHILD_DONE = auto()  #: start() has returned, the result is there
    CHILD_FAILED = auto()  #: the user's code has raised
    #: The code cannot be loaded, has called sys.exit(), or has lost its stream: the child ends by itself.
    CHILD_QUITS = auto()
    CHILD_GONE = auto()  #: no process of the child is left, whatever ended it
    CHILD_GONE_EARLY = auto()  #: the same, before it began the task: another child can take the task
    USAGE_KNOWN = auto()  #: the final usage of the task has arrived, or is given up
    GRACE_OVER = auto()


class Action(Enum):
    """What is to be done, in the order of the row.

    BEGIN, HAND_OVER and MEASURE may lead to the next event at once, so each is the last of its row.
    """

    __hash__ = object.__hash__

    BEGIN = auto()  #: make the task, hand it to a child (started if there is none)
    FETCH = auto()  #: have the storage process read the input
    STORE = auto()  #: have the storage process write the result
    HAND_OVER = auto()  #: hand the task to another child
    ABANDON = auto()  #: kill the child in the background, nothing of it is read any more
    RELEASE_CHILD = auto()  #: give the child the grace to end by itself; it gets no further task
    CHILD_START = auto()
    CHILD_STOP = auto()  #: have stop() called
    CHILD_EXIT = auto()  #: have the child end: stop() if a task runs, then exit()
    CHILD_KILL = auto()  #: kill the child because the grace is over
    CHILD_INTERRUPT = auto()  #: kill the child because the user has asked twice
    ARM_GRACE = auto()
    DISARM_GRACE = auto()
    MEASURE = auto()  #: ask for the final usage of a task that lasted; end what it has left (--end-children)
    POST_INITIALIZED = auto()
    POST_STARTED = auto()
    POST_ANSWER = auto()  #: `done` or `errorMessage`: what the child has answered
    POST_DEATH = auto()  #: `errorMessage`: how the child ended
    POST_STOPPED = auto()
    RECORD_STOPPED = auto()  #: record the task as stopped; the worker wants no answer any more
    REPLACE = auto()  #: start the next child, unless it would end like the last one
    FINISH = auto()  #: close the link, end the loop


class Row(NamedTuple):
    """What an event leads to."""

    state: State
    actions: tuple[Action, ...] = ()


S, E, A = State, Event, Action

#: The child may still die without having begun the task, which another child can take then.
NOT_BEGUN = (S.INITIALIZING, S.STARTING, S.REINITIALIZING, S.RESTARTING, S.INITIALIZED)
#: The task is being worked on: the worker takes messages of the code API (HKube core/worker lib/code-api).
WORKING = frozenset((S.FETCHING, *NOT_BEGUN, S.RUNNING, S.ANSWERED, S.STORING))
#: The worker takes `alive`: between `initialized` and the answer (HKube core/worker lib/worker.js).
TAKES_ALIVE = frozenset((S.INITIALIZED, S.REINITIALIZING, S.RESTARTING, S.RUNNING, S.ANSWERED, S.STORING))
#: The worker takes `stopping`: between a stop and `stopped` (HKube core/worker lib/worker.js).
TAKES_STOPPING = frozenset((S.STOPPING, S.STOPPED, S.KILLING))
#: The worker takes `streamingStatistics`: from `start` to the final answer.
TAKES_STATISTICS = frozenset((S.RUNNING, S.RESTARTING, S.ANSWERED, S.STORING, S.STOPPING, S.STOPPED))
#: The child has done with the task, whose answer waits for its final usage.
MEASURING = frozenset((S.ANSWERED, S.STOPPED))
#: The child has answered: nothing that it says of the task counts any more.
HAS_ANSWERED = MEASURING | {S.STORING}
#: No child works on the task: the storage process does.
AT_STORAGE = frozenset((S.FETCHING, S.STORING))
#: The end of everything was asked for: no answer goes to the worker any more.
ENDING = frozenset((S.EXITING, S.EXITED))

TABLE: dict[tuple[State, Event], Row] = {
    # ---- a task that succeeds
    (S.IDLE, E.INITIALIZE): Row(S.INITIALIZING, (A.BEGIN,)),
    (S.INITIALIZING, E.CHILD_INITIALIZED): Row(S.INITIALIZED, (A.POST_INITIALIZED,)),
    (S.INITIALIZED, E.START): Row(S.RUNNING, (A.CHILD_START, A.POST_STARTED)),
    (S.RUNNING, E.CHILD_DONE): Row(S.ANSWERED, (A.MEASURE,)),
    (S.ANSWERED, E.USAGE_KNOWN): Row(S.IDLE, (A.POST_ANSWER,)),
    # ---- storage v3: the storage process does its part before and after the child
    (S.INITIALIZING, E.MUST_FETCH): Row(S.FETCHING, (A.FETCH,)),
    (S.FETCHING, E.FETCHED): Row(S.INITIALIZING, (A.HAND_OVER,)),
    (S.FETCHING, E.STORAGE_FAILED): Row(S.IDLE, (A.POST_ANSWER,)),
    (S.ANSWERED, E.MUST_STORE): Row(S.STORING, (A.STORE,)),
    (S.STORING, E.STORED): Row(S.ANSWERED, (A.MEASURE,)),
    (S.STORING, E.STORAGE_FAILED): Row(S.ANSWERED, (A.MEASURE,)),
    (S.FETCHING, E.CHILD_QUITS): Row(S.IDLE, (A.RELEASE_CHILD, A.POST_ANSWER)),
    **{(state, E.CHILD_GONE): Row(state, (A.REPLACE,)) for state in (S.FETCHING, S.STORING)},
    # ---- the worker repeats itself, or does not wait
    # `start` came before `initialized` was posted.
    (S.INITIALIZING, E.START): Row(S.STARTING),
    (S.STARTING, E.CHILD_INITIALIZED): Row(S.RUNNING, (A.POST_INITIALIZED, A.CHILD_START, A.POST_STARTED)),
    # HKube's debug server repeats initialize and start after a reconnect.
    (S.INITIALIZED, E.INITIALIZE_AGAIN): Row(S.INITIALIZED, (A.POST_INITIALIZED,)),
    (S.REINITIALIZING, E.INITIALIZE_AGAIN): Row(S.INITIALIZING),
    **{
        (state, E.INITIALIZE_AGAIN): Row(state)
        for state in (S.INITIALIZING, S.STARTING, S.RESTARTING, S.RUNNING, S.ANSWERED, S.FETCHING, S.STORING)
    },
    **{
        (state, E.START): Row(state)
        for state in (S.STARTING, S.RESTARTING, S.RUNNING, S.ANSWERED, S.FETCHING, S.STORING)
    },
    # ---- the child died before it began the task: another child takes it
    (S.INITIALIZING, E.CHILD_GONE_EARLY): Row(S.INITIALIZING, (A.HAND_OVER,)),
    (S.STARTING, E.CHILD_GONE_EARLY): Row(S.STARTING, (A.HAND_OVER,)),
    # There is no init(), so `initialized` was posted at once; a second one would end HKube's worker.
    (S.INITIALIZED, E.CHILD_GONE_EARLY): Row(S.REINITIALIZING, (A.HAND_OVER,)),
    (S.REINITIALIZING, E.CHILD_INITIALIZED): Row(S.INITIALIZED),
    (S.REINITIALIZING, E.START): Row(S.RESTARTING),
    (S.RESTARTING, E.CHILD_INITIALIZED): Row(S.RUNNING, (A.CHILD_START, A.POST_STARTED)),
    # ---- the task fails. INITIALIZED: the code has no init(), and the input cannot be read.
    **{(state, E.CHILD_FAILED): Row(S.ANSWERED, (A.MEASURE,)) for state in (*NOT_BEGUN, S.RUNNING)},
    **{
        (state, E.CHILD_QUITS): Row(S.IDLE, (A.RELEASE_CHILD, A.POST_ANSWER))
        for state in (*NOT_BEGUN, S.RUNNING)
    },
    **{(state, E.CHILD_GONE): Row(S.IDLE, (A.POST_DEATH, A.REPLACE)) for state in (*NOT_BEGUN, S.RUNNING)},
    # The child had answered: the answer counts, whatever became of the child since.
    (S.ANSWERED, E.CHILD_GONE): Row(S.IDLE, (A.POST_ANSWER, A.REPLACE)),
    (S.STOPPED, E.CHILD_GONE): Row(S.IDLE, (A.POST_STOPPED, A.REPLACE)),
    # ---- between two tasks
    (S.IDLE, E.CHILD_QUITS): Row(S.IDLE, (A.RELEASE_CHILD,)),
    (S.IDLE, E.CHILD_GONE): Row(S.IDLE, (A.REPLACE,)),
    # ---- stop
    **{
        (state, E.STOP): Row(S.STOPPING, (A.CHILD_STOP, A.ARM_GRACE))
        for state in (S.INITIALIZING, S.STARTING, S.REINITIALIZING, S.RESTARTING, S.RUNNING)
    },
    # start() was not called yet, and will not be: the child takes the next task instead of a START.
    (S.INITIALIZED, E.STOP): Row(S.STOPPED, (A.MEASURE,)),
    # The answer has not left: `stopped` goes in its place. What is stored stays, and is written over by a
    # repetition of the task.
    (S.ANSWERED, E.STOP): Row(S.STOPPED),
    (S.STORING, E.STOP): Row(S.STOPPED, (A.MEASURE,)),
    (S.FETCHING, E.STOP): Row(S.IDLE, (A.POST_STOPPED,)),
    # The answer has left: the worker waits for one `stopped` all the same.
    (S.IDLE, E.STOP): Row(S.IDLE, (A.POST_STOPPED,)),
    # Stopped in init(): the child takes the next task instead of a START.
    (S.STOPPING, E.CHILD_INITIALIZED): Row(S.STOPPED, (A.DISARM_GRACE, A.MEASURE)),
    **{
        (S.STOPPING, event): Row(S.STOPPED, (A.DISARM_GRACE, A.MEASURE))
        for event in (E.CHILD_DONE, E.CHILD_FAILED)
    },
    (S.STOPPED, E.USAGE_KNOWN): Row(S.IDLE, (A.POST_STOPPED,)),
    (S.STOPPING, E.CHILD_QUITS): Row(S.IDLE, (A.DISARM_GRACE, A.RELEASE_CHILD, A.POST_STOPPED)),
    (S.STOPPING, E.CHILD_GONE): Row(S.IDLE, (A.DISARM_GRACE, A.POST_STOPPED, A.REPLACE)),
    (S.STOPPING, E.GRACE_OVER): Row(S.KILLING, (A.CHILD_KILL,)),
    (S.KILLING, E.CHILD_GONE): Row(S.IDLE, (A.POST_STOPPED, A.REPLACE)),
    # A second stop while the first is served: one `stopped` answers both.
    **{(state, E.STOP): Row(state) for state in (S.STOPPING, S.STOPPED, S.KILLING)},
    # ---- late, and harmless
    **{(state, E.START): Row(state) for state in (S.STOPPING, S.STOPPED, S.KILLING, S.IDLE)},
    **{
        (state, event): Row(state)
        for state in (S.ANSWERED, S.STORING, S.STOPPED, S.KILLING)
        for event in (E.CHILD_INITIALIZED, E.CHILD_DONE, E.CHILD_FAILED, E.CHILD_QUITS)
    },
    # ---- a worker that was restarted, or gave the task up, begins another one
    **{
        (state, E.INITIALIZE): Row(S.INITIALIZING, (A.RECORD_STOPPED, A.ABANDON, A.BEGIN))
        for state in (S.INITIALIZING, S.STARTING, S.REINITIALIZING, S.RESTARTING, S.RUNNING, S.KILLING)
    },
    (S.STOPPING, E.INITIALIZE): Row(S.INITIALIZING, (A.DISARM_GRACE, A.RECORD_STOPPED, A.ABANDON, A.BEGIN)),
    # The child waits for START, or has done with the task: it takes the next one.
    **{
        (state, E.INITIALIZE): Row(S.INITIALIZING, (A.RECORD_STOPPED, A.BEGIN))
        for state in (S.INITIALIZED, S.ANSWERED, S.STOPPED, S.FETCHING, S.STORING)
    },
    # ---- the end of everything
    **{
        (state, E.EXIT): Row(S.EXITING, (A.CHILD_EXIT, A.ARM_GRACE))
        for state in (S.IDLE, *NOT_BEGUN, S.RUNNING, S.FETCHING, S.STORING)
    },
    (S.ANSWERED, E.EXIT): Row(S.EXITING, (A.POST_ANSWER, A.CHILD_EXIT, A.ARM_GRACE)),
    (S.STOPPING, E.EXIT): Row(S.EXITING, (A.DISARM_GRACE, A.CHILD_EXIT, A.ARM_GRACE)),
    (S.STOPPED, E.EXIT): Row(S.EXITING, (A.POST_STOPPED, A.CHILD_EXIT, A.ARM_GRACE)),
    (S.KILLING, E.EXIT): Row(S.EXITING),
    (S.EXITING, E.GRACE_OVER): Row(S.EXITING, (A.CHILD_KILL,)),
    (S.EXITING, E.KILL_NOW): Row(S.EXITING, (A.CHILD_INTERRUPT,)),
    (S.EXITING, E.CHILD_GONE): Row(S.EXITED, (A.DISARM_GRACE, A.RECORD_STOPPED, A.FINISH)),
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
            E.CHILD_QUITS,
        )
    },
    **{(S.EXITED, event): Row(S.EXITED) for event in E},
}
