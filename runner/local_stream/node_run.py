"""One node of a running stream pipeline: its replicas, and how their tasks ended."""

from __future__ import annotations

from collections.abc import Sequence

from ..protocol.messages import Failure
from ..protocol.result import Result
from ..worker_stub.stream_pipeline import StreamNode
from .replica import Replica, ReplicaState

_OVER = (ReplicaState.ENDED, ReplicaState.GONE)


class NodeRun:
    """One node, from the start of its replicas to the end of the last one."""

    def __init__(self, node: StreamNode, replicas: Sequence[Replica]) -> None:
        self.node = node
        self.replicas = replicas
        self.results: list[Result] = []  #: how the tasks of the replicas ended, in this order
        self.failure: Failure | None = None  #: the first one that the pipeline ended of
        self.began_at: float | None = None
        self.ended_at: float | None = None
        self.is_stopping = False  #: whether its replicas were asked to stop
        self.is_cut_short = False  #: whether they were stopped before everything was handled

    @property
    def has_ended(self) -> bool:
        """Whether no replica takes messages any more."""
        return all(one.state in _OVER for one in self.replicas)

    @property
    def working(self) -> list[Replica]:
        """Its replicas whose task runs."""
        return [one for one in self.replicas if one.state is ReplicaState.WORKING]

    @property
    def status(self) -> str:
        """Its status in HKube's words; one that has ended in order has succeeded."""
        if self.failure is not None:
            return "failed"
        return "stopped" if self.is_cut_short or not self.results else "succeed"

    def seconds(self, now: float) -> float:
        """Return for how long it has run."""
        if self.began_at is None:
            return 0.0
        return (self.ended_at if self.ended_at is not None else now) - self.began_at
