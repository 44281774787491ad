"""Puts a job in a cluster beside tasks that ran here: duration, memory and its limit, CPU, outcome, metrics.

HKube's API does not have the memory and the CPU that a task used: these are None, and a note says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...boards.runs.files import number_in, replace_file, safe_part
from ...boards.runs.history import show_task
from ...sandbox.shared.limits import format_bytes, parse_memory
from ..cluster.algorithm_store import AlgorithmStore
from ..cluster.api import ClusterApi
from ..cluster.job import ClusterJob
from ..cluster.job_answers import end_of
from ..cluster.job_tasks import ClusterLimits, ClusterTask, cluster_tasks, limits_of
from ..cluster.metrics import metric_files, read_file
from ..errors import HkrunnerError

#: Fetch the metrics of at most this many tasks: at 4 requests a second, those of thousands would take hours.
METRICS_TASKS_MAX = 20
#: Status of a task whose metrics HKube has stored.
_ENDED = ("succeed", "failed")


class ComparedRow(NamedTuple):
    """One task; None: not known."""

    where: str  #: the cluster's name, or "here"
    task: str
    node: str
    batch_index: int | None  #: in the batch, from 1
    status: str
    code: str | None  #: of the error
    duration_ms: float | None
    peak_bytes: int | None
    limit_bytes: int | None
    cpu_s: float | None

    def facts(self) -> dict[str, Any]:
        """Return the fields of --json."""
        return {
            "where": self.where,
            "taskId": self.task,
            "nodeName": self.node,
            "batchIndex": self.batch_index,
            "status": self.status,
            "code": self.code,
            "durationMs": self.duration_ms,
            "peakMemBytes": self.peak_bytes,
            "memLimitBytes": self.limit_bytes,
            "cpuSeconds": self.cpu_s,
        }


class Comparison(NamedTuple):
    """A job and its tasks, and the tasks that ran here."""

    job: str
    cluster: str
    algorithm: str | None
    pipeline: str
    status: str
    took_s: float | None
    limits: ClusterLimits | None
    tasks: list[ClusterTask]
    rows: list[ComparedRow]  #: those of the cluster first

    @property
    def durations_ms(self) -> list[float]:
        """How long the tasks in the cluster took, of those that say it."""
        return [one.duration_ms for one in self.tasks if one.duration_ms is not None]

    def facts(self) -> dict[str, Any]:
        """Return the fields of --json, but for the board."""
        durations = self.durations_ms
        limits = self.limits
        return {
            "jobId": self.job,
            "cluster": self.cluster,
            "algorithm": self.algorithm,
            "status": self.status,
            "tookMs": None if self.took_s is None else self.took_s * 1000,
            "tasks": len(self.tasks),
            "failed": sum(one.status == "failed" for one in self.tasks),
            "medianMs": statistics.median(durations) if durations else None,
            "longestMs": max(durations, default=None),
            "mem": None if limits is None else limits.memory,
            "cpu": None if limits is None else limits.cpu,
            "version": None if limits is None else limits.version,
            "compared": [one.facts() for one in self.rows],
        }

    def notes(self) -> list[str]:
        """Return notes to the table, one a line."""
        found = [f"job {self.job} on {self.cluster}: {self.status}{_taken(self.took_s)}"]
        failed = sum(one.status == "failed" for one in self.tasks)
        count = "1 task" if len(self.tasks) == 1 else f"{len(self.tasks):,} tasks"
        durations = self.durations_ms
        spread = ""
        if len(durations) > 1:
            middle, longest = statistics.median(durations) / 1000, max(durations) / 1000
            spread = f"; a task took {middle:.2f} s (median), {longest:.2f} s at most"
        found[0] += f", {count}{f', {failed:,} failed' if failed else ''}{spread}"
        found.append(
            "HKube's API has neither the memory nor the CPU that a task used: only the limit is known"
        )
        limit = None if self.limits is None else _bytes_of(self.limits.memory)
        for one in self.rows:
            if one.where == HERE and limit is not None and (one.peak_bytes or 0) > limit:
                found.append(
                    f"{one.task} used {format_bytes(one.peak_bytes or 0)} here, and {self.algorithm} has"
                    f" {format_bytes(limit)} on {self.cluster}"
                )
        return found


#: Value of `where` for a task that ran on this machine.
HERE = "here"


def compare(
    api: ClusterApi, state_dir: str, job: str, tasks: Sequence[str], *, algorithm: str | None
) -> Comparison:
    """Return the job beside the tasks. Raises HkrunnerError, and NotFound for a task that is not recorded.

    algorithm: of the job, where the record of its submission has it; None: the first that its graph has.
    """
    local = [_local_row(state_dir, one) for one in dict.fromkeys(tasks)]
    status = ClusterJob(api, job, {}, job).status()
    end = end_of(status)
    found = cluster_tasks(api, job, end)
    algorithm = algorithm or next((one.algorithm for one in found if one.algorithm), None)
    version = next((one.version for one in found if one.version and one.algorithm == algorithm), None)
    limits = None if algorithm is None else limits_of(AlgorithmStore(api), algorithm, version)
    limit = None if limits is None else _bytes_of(limits.memory)
    rows = [_cluster_row(one, api.cluster.name, algorithm, limit) for one in found]
    return Comparison(
        job,
        api.cluster.name,
        algorithm,
        str(status.get("pipeline") or job),
        str(status.get("status")),
        None if end is None else end.took_s,
        limits,
        found,
        rows + local,
    )


def _cluster_row(one: ClusterTask, cluster: str, algorithm: str | None, limit: int | None) -> ComparedRow:
    own_limit = limit if one.algorithm in (None, algorithm) else None
    return ComparedRow(
        cluster,
        one.task,
        one.node,
        one.batch_index,
        one.status,
        one.code,
        one.duration_ms,
        None,
        own_limit,
        None,
    )


def _local_row(state_dir: str, task: str) -> ComparedRow:
    details = show_task(Path(state_dir), task)
    one, facts = details.summary, details.facts
    error = facts.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    limit = number_in(facts.get("memLimitBytes"))
    return ComparedRow(
        HERE,
        one.name,
        one.node,
        None,
        one.status,
        code if isinstance(code, str) else None,
        one.duration_ms,
        one.peak_bytes,
        None if limit is None else round(limit),
        number_in(facts.get("cpuSeconds")),
    )


def _bytes_of(memory: str | None) -> int | None:
    try:
        return None if memory is None else parse_memory(memory)
    except ValueError:
        return None  # the cluster takes forms that hkrunner does not


def _taken(took_s: float | None) -> str:
    return "" if took_s is None else f" in {took_s:.2f} s"


# ---- metrics


class FetchedMetrics(NamedTuple):
    """What was fetched of the metrics of a job."""

    folders: list[Path]  #: the run folder of each task that has metrics
    left: int  #: number of further tasks with metrics, which were not fetched


def fetch_metrics(api: ClusterApi, state_dir: str, found: Comparison) -> FetchedMetrics:
    """Write the metrics of the first tasks to their run folders. Raises HkrunnerError.

    A file that is there with the same size is not fetched again: HKube writes each once.
    """
    having = [one for one in found.tasks if one.metrics is not None and one.status in _ENDED]
    folders = []
    try:
        for one in having[:METRICS_TASKS_MAX]:
            folder = run_folder(state_dir, found, one)
            files = metric_files(api, one)
            for file in files:
                target = folder.joinpath(*map(safe_part, file.name))
                if not target.is_file() or target.stat().st_size != file.size:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    replace_file(str(target), read_file(api, file))
            if files:
                folders.append(folder)
    except OSError as error:
        raise HkrunnerError(f"the metrics cannot be written: {error.filename}: {error.strerror}") from None
    return FetchedMetrics(folders, max(0, len(having) - METRICS_TASKS_MAX))


def run_folder(state_dir: str, found: Comparison, task: ClusterTask) -> Path:
    """Return where the metrics of a task in the cluster are, beside those of tasks that ran here."""
    parts = (found.pipeline, task.node, found.job, task.task)
    return Path(state_dir, "runs", *map(safe_part, parts))
