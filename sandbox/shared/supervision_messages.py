"""The messages between an hkrunner.Pool and its supervising process, each in a datagram.

    Pool -> supervising process   Supervise (in a file), then StartWorker, WatchWorker, KillWorker,
                                  AskWorkerUsage and EndWorkers
    supervising process -> Pool   PoolReady, then WorkerLoaded, WorkerUsage and WorkerEnded; PoolRefused at
                                  any time

Tasks and results go over the workers' own sockets: see pool_messages.py.
"""

from __future__ import annotations

from typing import Any

from .message_format import ProcessMessage
from .messages import HeldBack


class Supervise(ProcessMessage):
    """How to supervise the workers of a Pool; comes first."""

    kind = 80
    version: int
    arguments: list[str]  #: those of the command line that runs the same code
    is_function: bool
    processes: int  #: most workers at a time


class StartWorker(ProcessMessage):
    """Start the worker of this number."""

    kind = 81
    worker: int


class WatchWorker(ProcessMessage):
    """The worker is idle, or has tasks again."""

    kind = 82
    worker: int
    idle: bool


class KillWorker(ProcessMessage):
    """End the worker: its task exceeded a time limit, or its socket is broken."""

    kind = 83
    worker: int
    cause: str  #: the value of a Cause
    detail: str


class AskWorkerUsage(ProcessMessage):
    """Measure what the worker uses, and whether it was refused memory; answered by WorkerUsage."""

    kind = 84
    worker: int
    number: int


class EndWorkers(ProcessMessage):
    """End all workers in order. `now`: also those that have a task."""

    kind = 85
    now: bool


class PoolReady(ProcessMessage):
    """The options are accepted; the first message."""

    kind = 88
    version: int
    limits: dict[str, Any]  #: see Limits.to_json()
    timeout_s: float | None = None
    records: dict[str, Any] | None = None  #: what the Pool needs to record its tasks; None: it does not


class PoolRefused(ProcessMessage):
    """The supervising process cannot go on, and ends."""

    kind = 89
    exit_status: int  #: that of a command which ends so
    message: str


class WorkerLoaded(ProcessMessage):
    """The worker has loaded the code. With its task socket, and the files of its marks and its deadlines."""

    kind = 90
    worker: int


class WorkerUsage(ProcessMessage):
    """The answer to an AskWorkerUsage."""

    kind = 91
    number: int
    memory_bytes: int | None = None  #: None: the worker is gone
    held_back: HeldBack | None = None


class WorkerEnded(ProcessMessage):
    """The worker has ended, and nothing of it is left."""

    kind = 92
    worker: int
    loaded: bool  #: whether it had loaded the code
    code: str
    message: str  #: for its task, if it had one
    details: str
    without_task: str  #: the message if it had none
    stopped: bool
    peak_bytes: int | None = None
    limit_bytes: int | None = None


TO_SUPERVISOR = {
    one.kind: one for one in (Supervise, StartWorker, WatchWorker, KillWorker, AskWorkerUsage, EndWorkers)
}
TO_POOL = {one.kind: one for one in (PoolReady, PoolRefused, WorkerLoaded, WorkerUsage, WorkerEnded)}
