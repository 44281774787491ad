"""What a cluster knows of the tasks of a job: how each ended, how long it took, and its limits.

HKube's API has neither the memory nor the CPU that a task has used: they are known to Kubernetes only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import ClusterError, EntryNotFound
from ..protocol.error_codes import CODES
from ..protocol.messages import printable
from .algorithm_store import AlgorithmStore
from .api import RESULT_MAX, ClusterApi
from .job_answers import COMPLETED, LATE_S, JobEnd, number, tasks_of
from .refusals import RequestRefused

#: What HKube gives an algorithm that names no memory (its schema's default).
DEFAULT_MEMORY = "256Mi"


class ClusterTask(NamedTuple):
    """One task of a job, as the graph has it. None for what it does not say."""

    task: str
    node: str
    batch_index: int | None  #: in its batch, from 1
    status: str  #: in HKube's words: succeed, failed, active, creating, ...
    start_ms: float | None
    end_ms: float | None
    error: str | None
    metrics: str | None  #: where the storage has its metrics
    algorithm: str | None
    version: str | None  #: of the algorithm

    @property
    def duration_ms(self) -> float | None:
        """How long it took."""
        if self.start_ms is None or self.end_ms is None:
            return None
        return max(0.0, self.end_ms - self.start_ms)

    @property
    def code(self) -> str | None:
        """The code of hkrunner's errors, if the task failed with one."""
        code = (self.error or "").partition(":")[0]
        return code if code in CODES else None


class ClusterLimits(NamedTuple):
    """The limits that an algorithm has in the cluster."""

    memory: str | None  #: as it is written there
    cpu: float | None
    version: str | None  #: the version that they are of


def cluster_tasks(
    api: ClusterApi, job: str, end: JobEnd | None, *, pause: Callable[[float], object] = time.sleep
) -> list[ClusterTask]:
    """Return the tasks of a job in the order of its graph. Raises ClusterError if there is no such job.

    The cluster writes the graph some time after the status: that of a job that has completed is asked for
    again until each task in it has ended, for LATE_S.
    """
    for _ in range(int(LATE_S) if end is not None and end.status == COMPLETED else 0):
        found = _tasks_now(api, job)
        if found and all(one.end_ms is not None for one in found):
            return found
        pause(1.0)
    return _tasks_now(api, job)


def _tasks_now(api: ClusterApi, job: str) -> list[ClusterTask]:
    try:
        graph = api.get(f"graph/parsed/{job}", most=RESULT_MAX)
    except RequestRefused as error:
        if error.status != 404:
            raise
        raise ClusterError(f"{api.cluster.name} has no graph of a job {job}") from None
    found = [_task(one) for one in tasks_of(graph)]
    return sorted(found, key=lambda one: one.batch_index or 0)


def _task(one: Mapping[str, Any]) -> ClusterTask:
    index = one.get("batchIndex")
    metrics = one.get("metricsPath")
    board = metrics.get("tensorboard") if isinstance(metrics, dict) else None
    return ClusterTask(
        printable(str(one.get("taskId") or "?")),
        printable(str(one.get("nodeName") or "?")),
        index if type(index) is int else None,
        printable(str(one.get("status") or "?")),
        number(one.get("startTime")),
        number(one.get("endTime")),
        _text(one.get("error")),
        _text(board.get("path")) if isinstance(board, dict) else None,
        _text(one.get("algorithmName")),
        _text(one.get("algorithmVersion")),
    )


def limits_of(store: AlgorithmStore, name: str, version: str | None) -> ClusterLimits | None:
    """Return the limits of this version of the algorithm; None if the algorithm was removed.

    version None, or one that was removed: those that it has now.
    """
    try:
        algorithm: Mapping[str, Any] = store.get(name)
    except EntryNotFound:
        return None
    if version is not None and algorithm.get("version") != version:
        algorithm = next((one.algorithm for one in store.versions(name) if one.id == version), algorithm)
    memory = algorithm.get("mem")
    return ClusterLimits(
        memory if isinstance(memory, str) else None,
        number(algorithm.get("cpu")),
        _text(algorithm.get("version")),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
