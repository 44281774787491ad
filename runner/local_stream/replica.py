"""One process of a node, with both sides of its connection.

    StreamRun -> Replica: Session <- LoopbackLink -> Supervisor -> child
                                                               -> socket process <- ZeroMQ -> other nodes

    LOADING -> LOADED -> WORKING -> ENDED -> GONE       a failed task that is begun again stays WORKING

The child loads the code, then waits until that of all nodes is loaded. Its task, which has no end of its own
unless it is a source, is begun and stopped as HKube's worker does. The nodes find each other by the messages
that HKube's worker sends for it, and are connected directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from ..protocol.messages import Failure
from ..protocol.result import Result
from ..serving.loopback_link import LoopbackLink
from ..serving.run_context import RunContext
from ..serving.supervisor import Hooks, Supervisor
from ..streaming.stream_settings import LOOPBACK
from ..worker_stub.catalog import Catalog
from ..worker_stub.session import Session, SessionListener
from ..worker_stub.task import Answer, LocalTask
from .node_output import NodeOutput
from .reserved_port import ReservedPort


class ReplicaState(Enum):
    """How far a replica is."""

    LOADING = auto()
    LOADED = auto()
    WORKING = auto()
    ENDED = auto()  #: its task is over; the process is ending
    GONE = auto()


@dataclass
class ReplicaListener:
    """Callbacks for what a replica does."""

    on_loaded: Callable[[Replica], None]
    on_load_failed: Callable[[Replica, Failure], None]
    on_statistics: Callable[[Replica, Sequence[Any]], None]
    on_ended: Callable[[Replica, Result], None]  #: its task is over; begin() begins it again
    on_gone: Callable[[Replica], None]  #: nothing is left of it


class Replica:
    """Serves one node, alone or together with others."""

    def __init__(
        self,
        context: RunContext,
        catalog: Catalog,
        listener: ReplicaListener,
        *,
        node: str,
        name: str,
        output: NodeOutput,
        port: ReservedPort | None,
    ) -> None:
        """context: of its algorithm. catalog: what its code can start and find.

        port: where the next nodes fetch messages; None: there are none.
        """
        settings = context.settings
        serving = settings.serving._replace(stream_port=0 if port is None else port.number)
        context = context._replace(settings=settings._replace(serving=serving), output=output)
        self.node = node
        self.name = name
        self.output = output
        self.store = context.store
        #: Whether its statistics are those of a program, which sends none when its task has ended.
        self.is_program = bool(settings.code.argv)
        self.state = ReplicaState.LOADING
        self.failures = 0  #: of its task
        self._listener = listener
        self._port = port
        self._result: Result | None = None
        pool = context.child_pool()
        #: Returns the pid of the algorithm's process; 0 when there is none.
        self.child_pid = pool.child_pid
        hooks = Hooks(
            on_result=self._note_result,
            on_loaded=self._loaded,
            on_load_failed=self._load_failed,
            on_finished=self._finished,
        )
        self.supervisor = Supervisor(context, hooks, pool)
        self._link = LoopbackLink(context.loop, self.supervisor)
        session = SessionListener(
            self._answered, self._problem, on_statistics=lambda items: listener.on_statistics(self, items)
        )
        self._session = Session(context.loop, self._link, catalog, session)
        self._link.on_post = self._session.hear
        self.supervisor.attach(self._link)

    def load(self) -> None:
        """Start the process, which loads the code."""
        self.supervisor.preload()

    def begin(self, task: LocalTask) -> None:
        """Begin its task; the code is loaded, or the task has failed before."""
        self.state = ReplicaState.WORKING
        self._session.begin(task)

    def tell_of(self, others: Sequence[Replica], kind: str) -> None:
        """Say that these replicas of nodes before it have come (kind "Add") or gone ("Del")."""
        changes = [
            {
                "nodeName": other.node,
                "address": {"host": LOOPBACK, "port": str(other._port.number)},
                "type": kind,
            }
            for other in others
            if other._port is not None
        ]
        self._session.update_parents(changes)

    def stop(self, *, force: bool) -> None:
        """Stop its task; by force: what it has sent is handed out for one more second."""
        if self.state is ReplicaState.WORKING:
            self._session.stop(force=force, at_once=True)

    def shutdown(self, status: int = 0) -> None:
        """End the process, and its task if it has one; the second call kills."""
        self.supervisor.shutdown(status)

    def close(self) -> None:
        """Leave the port to others."""
        if self._port is not None:
            self._port.close()

    def _loaded(self) -> None:
        if self.state is ReplicaState.LOADING:
            self.state = ReplicaState.LOADED
            self._listener.on_loaded(self)

    def _load_failed(self, failure: Failure) -> None:
        if (
            self.state is ReplicaState.LOADING
        ):  # else it is a later child: the task is answered with the failure
            self._listener.on_load_failed(self, failure)

    def _note_result(self, result: Result) -> None:
        self._result = result

    def _answered(self, answer: Answer) -> None:
        result, self._result = self._result, None
        assert result is not None, "a task has its result before its answer leaves"
        self._end(result)

    def _end(self, result: Result) -> None:
        self.state = ReplicaState.ENDED
        self._listener.on_ended(self, result)

    def _finished(self) -> None:
        result, self._result = self._result, None
        if result is not None:
            self._end(result)  # it was shut down: the session got no answer
        self._link.close()
        self._session.close()
        self.state = ReplicaState.GONE
        self._listener.on_gone(self)

    def _problem(self, text: str) -> None:
        if not self.supervisor.ending:
            self.output.warn(f"✘ local worker: {text}")
