"""The messages between parent, warden and child: one class for each, one schema for both directions.

    parent -> warden   Spawn, Kill, WatchTree, LimitCpu, AskUsage, EndOthers
    warden -> parent   Spawned, Sample, Ended
    parent -> child    Setup, Begin, BeginAndStart, Initialize, UseFolder, Start  (task socket, main thread)
                       StopTask, EndProcess, Reply                                (control socket and thread)
    child -> parent    Loaded, LoadFailed, TaskRead, Initialized, Done, Failed, StopReturned, ApiCall,
                       Progress, Problem, EndedProcessesPeak, StillRunning, DeepImport
    see also           pool_messages.py and supervision_messages.py (hkrunner.Pool), storage_messages.py,
                       stream_messages.py, user_process_messages.py (--in-process)

A message travels in one frame (channel.py), in the form that message_format.py gives it. The first message
each way carries PROTOCOL_VERSION: the child's files may be replaced, by an upgrade, while a parent runs. This
module also runs inside the child, on Python 3.8 and newer.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Type

from .import_messages import DeepImport
from .isolation_policy import Isolation
from .message_format import ProcessMessage, Wire
from .stream_messages import AskStream, StreamRefused, UseStream

# ---- parent to warden, on the lifeline


class Spawn(ProcessMessage):
    """Start the child; the first message. The descriptors named by `fds` travel with it, in that order."""

    kind = 32
    version: int
    argv: List[str]  #: the command; the descriptors in `keep` are appended
    cwd: str
    env: Dict[str, str]
    fds: List[str]
    keep: List[str]  #: those that the child inherits; none for a program that is not our own code
    limits: Dict[str, Any]  #: Limits.to_json()
    folders: List[str]  #: what the disk limit counts
    temporary_folders: List[str]  #: removed by the warden if the parent is killed
    isolation: Optional[Isolation] = None  #: None: the child may do what its user may do


class Kill(ProcessMessage):
    """End the whole tree; with `stack`, have the child write first where each of its threads is."""

    kind = 33
    stack: bool = False


class WatchTree(ProcessMessage):
    """Say whether a task runs: an idle tree is looked at less often. `loaded`: the code is imported."""

    kind = 34
    idle: bool
    loaded: bool
    has_stop: bool = False  #: the code has a stop()
    thread_lost: bool = False  #: a Problem has reported it: what waits for the thread may wait for ever


class LimitCpu(ProcessMessage):
    """Enforce the CPU limit, or suspend it while the algorithm ends within its grace."""

    kind = 35
    on: bool


class AskUsage(ProcessMessage):
    """Look now, and answer with a Sample of this number."""

    kind = 36
    number: int
    restart: bool  #: whether a task has begun: the highest use before that is forgotten
    began_at: float = 0.0  #: when it has, on the monotonic clock


class EndOthers(ProcessMessage):
    """End every process of the tree but the child itself, and its helpers."""

    kind = 37
    helpers: Optional[List[int]] = None  #: as in StillRunning; None: the child does not say


# ---- warden to parent, on the lifeline


class Protection(ProcessMessage):
    """Which limits are enforced, and how: a line to show, "cgroup" or "sampling", and Landlock's part."""

    line: str
    level: str
    signals_confined: bool
    sandbox: str = "basic"  #: level of the isolation; "basic": there is none
    refused: Optional[List[str]] = None  #: what the machine refused, for each stronger level that was tried
    not_prevented: Optional[List[str]] = None  #: what the algorithm can do in spite of its isolation
    possible: str = ""  #: a level that would be possible, where none is that is accepted


class Spawned(ProcessMessage):
    """The child runs, or could not be executed. The parent reads it before anything else of the child."""

    kind = 40
    version: int
    pid: int
    problem: str  #: why it could not be executed, "" if it could
    protection: Protection
    is_refused: bool = False  #: whether the problem is that the machine cannot isolate the child


class HeldBack(ProcessMessage):
    """A process that may reserve no more than `room_bytes`, since the tree is at its memory limit."""

    pid: int
    name: str
    room_bytes: int
    memory_bytes: int  #: of the whole tree
    ago_s: float  #: by the clock of the process: what it waits for a processor does not count
    at: float = 0.0  #: on the monotonic clock, which all processes share
    is_over: bool = False  #: whether the process was let go since, or the tree has freed memory

    def concerns(self, began: float) -> bool:
        """Whether what began at this time on the monotonic clock may have been refused memory."""
        return self.at >= began or not self.is_over


class Sample(ProcessMessage):
    """Usage of the tree: a few times a second while a task runs, and once for each AskUsage."""

    kind = 41
    memory_bytes: int
    peak_bytes: int
    files_bytes: int
    processes: int
    cpu_s: float
    answers: Optional[int] = None  #: the number of the AskUsage
    held_back: Optional[HeldBack] = None  #: most recent one since the task began
    needed_bytes: int = 0  #: what a limit must allow, if that is more than the peak


class ProcessMemory(ProcessMessage):
    """A process as it was when the kill began, or when a limit was found broken."""

    pid: int
    name: str
    memory_bytes: int


class SharedMemoryUse(ProcessMessage):
    """An object in shared memory that the run has made."""

    name: str
    size_bytes: int


class BrokenLimit(ProcessMessage):
    """The limit for which the warden ends the tree: used and allowed in its own unit."""

    cause: str  #: the value of an outcome.Cause
    used: float
    allowed: float
    after_s: float  #: seconds since the child began
    top: List[ProcessMemory]  #: largest first
    objects: List[SharedMemoryUse]  #: largest first
    objects_count: int  #: of all
    objects_bytes: int  #: of all


class Account(ProcessMessage):
    """What the tree has used in its whole life, and what became of its shared memory."""

    peak_bytes: int
    files_bytes: int
    cpu_s: float
    group_oom: bool  #: the kernel killed within our cgroup
    machine_oom: bool  #: the kernel killed because the machine had no memory left
    removed: List[SharedMemoryUse]  #: left behind by the run, and removed: the largest
    removed_count: int
    kept: List[SharedMemoryUse]  #: may be the run's, but is not proven to be: the largest
    kept_count: int
    held_back: Optional[HeldBack] = None  #: most recent one before the child ended
    after_s: float = 0.0  #: from the begin of the child to its end
    top: Optional[List[ProcessMemory]] = None  #: the largest processes, as last seen near the memory limit


class Ended(ProcessMessage):
    """No process of the tree is left, or `left` names them; the last message."""

    kind = 42
    status: Optional[int]  #: of the child, from waitpid(); None: it could not be reaped
    was_killed: bool  #: whether the parent had requested it
    broken: Optional[BrokenLimit]  #: the limit for which the warden killed the tree
    others: List[ProcessMemory]  #: the largest processes that still existed, the child included
    others_count: int
    left: List[ProcessMemory]  #: those that even SIGKILL did not end
    max_rss_bytes: int
    account: Optional[Account]  #: None: the child never ran


# ---- parent to child, on the task socket (read by the main thread)


class Setup(ProcessMessage):
    """Which code to load, and how; the first message."""

    kind = 1
    version: int
    folder: str  #: these four are an entry.Location
    module: str
    function: str
    file: str
    encoding: str  #: of the worker's messages: json, bson or msgpack
    python_path: List[str]  #: the user's PYTHONPATH, which our own imports must not see
    returned_errors: bool = False  #: errors of the code API are returned instead of raised
    brake_bytes: Optional[int] = None  #: the memory limit, where an allocation beyond it fails
    env: Optional[Dict[str, str]] = None  #: variables to set, where the process was not started with them
    is_pooled: bool = False  #: a worker of hkrunner.Pool
    isolation: Optional[Dict[str, Any]] = None  #: isolation_policy.hints_of(); None: it has none
    is_unlimited: bool = False  #: whether it may send more than HKube's worker takes in one message


class Begin(ProcessMessage):
    """A task with all that the child needs: Initialize and UseFolder in one. Defaults need no JSON."""

    kind = 5
    wire: bytes
    is_announced: bool = True  #: whether the worker was already told that it is initialized
    folder: Optional[str] = None
    keep_max_bytes: Optional[int] = None
    env: Optional[Dict[str, str]] = None
    recorded_bytes: int = 0


class BeginAndStart(Begin):
    """Begin, of a task for which the worker has said `start` already: the child waits for no Start."""

    kind = 13


class Initialize(ProcessMessage):
    """A task whose ids only the child can read; it answers with TaskRead, and waits for UseFolder."""

    kind = 2
    wire: Wire


class UseFolder(ProcessMessage):
    """Where the child records input and result; the answer to TaskRead, or sent before it comes."""

    kind = 3
    folder: Optional[str] = None  #: None: nothing is recorded
    keep_max_bytes: Optional[int] = None  #: larger values are not recorded; None: all are
    env: Optional[Dict[str, str]] = None  #: variables of the task; None: those of the task before
    is_announced: bool = False  #: whether the worker was already told that it is initialized
    recorded_bytes: int = 0  #: up to this size, the parent records values; the folder is not there yet then


class Start(ProcessMessage):
    """The worker has said `start`."""

    kind = 4


# ---- parent to child, on the control socket (read by the control thread)


class StopTask(ProcessMessage):
    """Call the user's stop() with these options of the worker."""

    kind = 8
    options: Dict[str, Any]


class EndProcess(ProcessMessage):
    """Stop what runs, then call the user's exit() with these options of the worker, and end."""

    kind = 9
    options: Dict[str, Any]


class Reply(ProcessMessage):
    """A message of the worker that answers a call of the code API."""

    kind = 10
    wire: Wire


# ---- child to parent, on the task socket


class Loaded(ProcessMessage):
    """The code is imported; the first message, unless it is LoadFailed."""

    kind = 16
    version: int
    methods: List[str]  #: of start, init, stop, exit: those that are there
    python: str  #: the version of the interpreter
    calls: Dict[str, Any]  #: for each method how it is called, see entry.calls_of


class LoadFailed(ProcessMessage):
    """The code cannot be used; the child ends by itself. `is_deliberate`: as of Failed."""

    kind = 17
    code: str
    message: str
    details: str = ""
    is_deliberate: bool = False


class TaskRead(ProcessMessage):
    """The task was decoded, and has begun: if the child dies now, no other child gets it."""

    kind = 18
    ids: Dict[str, Optional[str]]  #: as the worker's message names them


class Initialized(ProcessMessage):
    """The user's init() has returned, or there is none."""

    kind = 19


class Done(ProcessMessage):
    """The task is over: the final `done` message, ready for the worker."""

    kind = 20
    wire: Wire


class Failed(ProcessMessage):
    """The task is over without a result."""

    kind = 21
    code: str
    message: str
    details: str = ""
    ends: bool = False  #: whether the child is over, too: it ends by itself
    is_deliberate: bool = False  #: whether a `raise` or sys.exit() of the user's decided so, no other error


class StopReturned(ProcessMessage):
    """The user's stop() has returned, raised `error`, or does not exist."""

    kind = 22
    error: str = ""


class ApiCall(ProcessMessage):
    """A call of the code API, ready for the worker."""

    kind = 23
    wire: Wire


class Progress(ProcessMessage):
    """The progress that the algorithm reports, in percent; `details`: any value that it adds."""

    kind = 25
    value: float
    details: Any = None


class EndedProcessesPeak(ProcessMessage):
    """The most memory that one process had which this one has started and waited for, file pages included."""

    kind = 26
    rss_bytes: int


class StillRunning(ProcessMessage):
    """Threads and processes of the user's that run now, between two tasks; sent when they have changed."""

    kind = 29
    names: List[str]  #: the first ones
    count: int  #: of all
    helpers: Optional[List[int]] = None  #: pids of Python's own helpers, as the child sees them


class Problem(ProcessMessage):
    """Something that the user must know of, and that fails no task."""

    kind = 24
    text: str
    thread_lost: bool = False  #: a thread has ended for want of memory


def _by_kind(*messages: Type[ProcessMessage]) -> Dict[int, Type[ProcessMessage]]:
    return {one.kind: one for one in messages}


#: What each side takes from the other: any other kind is a protocol error.
TO_WARDEN = _by_kind(Spawn, Kill, WatchTree, LimitCpu, AskUsage, EndOthers)
FROM_WARDEN = _by_kind(Spawned, Sample, Ended)
TO_CHILD = _by_kind(Setup, Begin, BeginAndStart, Initialize, UseFolder, Start, UseStream, StreamRefused)
TO_CONTROL = _by_kind(StopTask, EndProcess, Reply)
FROM_CHILD = _by_kind(
    *(Loaded, LoadFailed, TaskRead, Initialized, Done, Failed, StopReturned, ApiCall),
    *(Progress, Problem, EndedProcessesPeak, StillRunning, DeepImport, AskStream),
)
