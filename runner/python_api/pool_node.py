"""The tasks of a Pool with an executor, on the machine where the executor runs them.

    Pool -> executor -> run_task(), in a thread of the executor's -> one worker, kept for the next task

So each task has its limits on the machine where it runs, and the executor decides how many run there. Only
the worker unpickles arguments and functions.
"""

from __future__ import annotations

import atexit
import os
import pickle
import threading
import time
from collections import defaultdict
from concurrent.futures import Future
from typing import NamedTuple

from ...sandbox.shared.channel import Buffer
from ...sandbox.shared.supervision_messages import Supervise
from ..app.pool_names import PoolNames
from .begin import folders_of_imports
from .pool_dispatcher import PoolDispatcher
from .pool_task import PoolTask
from .results import TaskFailed, TaskResult

#: Workers that have had no task for this long end.
IDLE_S = 30.0


class NodeOrder(NamedTuple):
    """What a node needs to know of a Pool. Pickled by the executor with each task."""

    pool: str  #: what identifies the Pool
    name: str  #: what its tasks run
    order: Supervise
    function: bytes | None  #: the pickled function of the Pool
    spare: bool


class NodeOutcome(NamedTuple):
    """How a task has ended: with the worker's answer, or with what is known of the failure."""

    answer: bytes
    failure: TaskResult | None


class _Encoded:
    """The coding of a node, where tasks and results are passed on as they are."""

    is_readable = False

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, task: PoolTask, names: PoolNames) -> list[Buffer]:
        """Return the message that came with the task."""
        return list(task.positional)

    def decode(self, answer: bytes) -> bytes:
        """Return the answer unchanged."""
        return answer


class _NodePools:
    """The Pools of this process that are kept for the next task, by the Pool whose tasks they run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[str, list[tuple[PoolDispatcher, float]]] = defaultdict(list)
        self._timer: threading.Timer | None = None

    def take(self, node: NodeOrder) -> PoolDispatcher:
        """Return one that is not in use; raises HkrunnerError if none can be started."""
        with self._lock:
            if idle := self._idle.get(node.pool):
                return idle.pop()[0]
        function = None
        if node.order.is_function:
            # The function's imports are searched where this process searches, not as on the Pool's machine.
            function = pickle.dumps((folders_of_imports(), node.function))
        made = PoolDispatcher(node.order, _Encoded(node.name), function, workers=1, spare=node.spare)
        try:
            made.ready.result()
        except BaseException:
            made.close(now=True)
            raise
        return made

    def give_back(self, node: NodeOrder, pool: PoolDispatcher) -> None:
        """Keep it for the next task."""
        with self._lock:
            self._idle[node.pool].append((pool, time.monotonic()))
            if self._timer is None:
                self._set_timer(IDLE_S)

    def end(self, name: str | None = None) -> None:
        """End those that are kept for this Pool, or all; return when their processes have ended."""
        with self._lock:
            names = tuple(self._idle) if name is None else (name,)
            ended = [pool for one in names for pool, _ in self._idle.pop(one, ())]
            if not self._idle and self._timer is not None:
                self._timer.cancel()
                self._timer = None
        for pool in ended:
            pool.close()
        for pool in ended:
            pool.join()

    def _set_timer(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._end_idle)
        self._timer.daemon, self._timer.name = True, "hkrunner-idle"
        self._timer.start()

    def _end_idle(self) -> None:
        with self._lock:
            self._timer = None
            due = time.monotonic() - IDLE_S
            since = [at for idle in self._idle.values() for _, at in idle]
            for name, idle in tuple(self._idle.items()):
                for pool, at in idle:
                    if at <= due:
                        pool.close()
                self._idle[name] = [one for one in idle if one[1] > due]
                if not self._idle[name]:
                    del self._idle[name]
            if self._idle:
                self._set_timer(max(0.1, min(at for at in since if at > due) - due))


_pools = _NodePools()


def _forget_pools() -> None:
    """Forget the Pools in a forked process, which has none of their threads and connections."""
    global _pools
    _pools = _NodePools()


os.register_at_fork(after_in_child=_forget_pools)


@atexit.register
def _end_all() -> None:
    _pools.end()


def end_here(node: NodeOrder) -> None:
    """End the workers that were kept in this process for the tasks of a Pool, which has ended."""
    _pools.end(node.pool)


def run_task(node: NodeOrder, task: str, message: bytes, timeout_s: float | None) -> NodeOutcome:
    """Run a task below an hkrunner of this machine, and return its outcome.

    `task`: its name; an executor may take two calls with equal arguments for one. Raises HkrunnerError for
    settings or code that cannot be used here.
    """
    pool = _pools.take(node)
    try:
        future: Future[bytes] = pool.submit((message,), {}, timeout_s)
        outcome = NodeOutcome(future.result(), None)
    except TaskFailed as error:
        outcome = NodeOutcome(b"", error.result)
    except BaseException:
        pool.close(now=True)
        raise
    _pools.give_back(node, pool)
    return outcome
