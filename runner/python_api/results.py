"""What hkrunner.run() returns, hands to on_event, and raises."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import HkrunnerError


class TaskFailed(HkrunnerError):
    """A task has no result; `result` says all that is known."""

    def __init__(self, result: TaskResult) -> None:
        super().__init__(f"task {result.task_id} {result.status} ({result.reason}): {result.message}")
        self.result = result


class Incomplete(HkrunnerError):
    """hkrunner ended before every task had run; `results` are those that had."""

    def __init__(self, sentence: str, results: list[TaskResult]) -> None:
        super().__init__(sentence)
        self.results = results


@dataclass(frozen=True)
class TaskError:
    """Why a task failed. `code` is one of hkrunner's list, `details` the traceback if there is one."""

    code: str
    message: str
    details: str


@dataclass(frozen=True)
class TaskLogs:
    """The files with what the algorithm printed."""

    stdout: Path
    stderr: Path


@dataclass(frozen=True)
class TaskResult:
    """One task, ended."""

    task_id: str
    job_id: str
    status: str  #: "succeed", "failed" or "stopped", HKube's words
    reason: str | None  #: None when it succeeded; else MemoryLimit, Timeout, AlgorithmError, …
    output: Any  #: what start() returned, as it comes out of JSON; None when the task did not succeed
    error: TaskError | None
    duration_s: float
    peak_bytes: int | None  #: most memory at a time, all its processes together; None: not measured
    limit_bytes: int | None  #: the memory limit that held; None: there was none
    cpu_s: float | None
    metrics_dir: Path | None  #: its event files
    logs: TaskLogs | None

    @property
    def ok(self) -> bool:
        """It has a result."""
        return self.status == "succeed"

    @property
    def message(self) -> str:
        """Why there is no result, in a sentence; "" when there is one."""
        return self.error.message if self.error is not None else self.reason or ""

    def raise_for_status(self) -> TaskResult:
        """Return self if the task succeeded, else raise TaskFailed."""
        if not self.ok:
            raise TaskFailed(self)
        return self


@dataclass(frozen=True)
class Printed:
    """A line of the algorithm's output, or of hkrunner's about it, without its end."""

    line: str
    task_id: str | None = None  #: None: printed outside tasks, as while the code loads
    stream: str | None = None  #: "stdout" or "stderr" of the algorithm; None: hkrunner says it


@dataclass(frozen=True)
class RunEvent:
    """Something that happened in the run: an event of `--output jsonl` that is no line and no result."""

    name: str  #: loaded, connected, initialized, started, progress, sample or killed; dropped: see run()
    task_id: str | None  #: None: it belongs to no task
    time_s: float  #: when, in seconds since the epoch
    fields: Mapping[str, Any]  #: its other fields, as `--output jsonl` has them


def read_events(line: bytes) -> Iterator[Printed | RunEvent | TaskResult]:
    """Return what a line of --output jsonl says; an event that follows lost ones says so first."""
    told: dict[str, Any] = json.loads(line)
    name, time_s = told.pop("event"), told.pop("time") / 1000
    dropped = told.pop("dropped", None)
    if dropped is not None:
        yield RunEvent("dropped", None, time_s, {"events": dropped})
    if name in ("done", "errorMessage", "stopped"):
        yield _result(told)
        return
    task_id = told.pop("taskId", None)
    if name == "log":
        yield Printed(told["line"], task_id, told["stream"])
    elif name == "warning":
        for text in told["text"].split("\n"):
            yield Printed(text, task_id)
    else:
        yield RunEvent(name, task_id, time_s, told)


def _result(told: Mapping[str, Any]) -> TaskResult:
    error, logs = told["error"], told["logs"]
    return TaskResult(
        task_id=told["taskId"],
        job_id=told["jobId"],
        status=told["status"],
        reason=told["reason"],
        output=told["output"],
        error=None if error is None else TaskError(error["code"], error["message"], error["details"] or ""),
        duration_s=told["durationMs"] / 1000,
        peak_bytes=told["peakMemBytes"],
        limit_bytes=told["memLimitBytes"],
        cpu_s=told["cpuSeconds"],
        metrics_dir=None if told["metricsDir"] is None else Path(told["metricsDir"]),
        logs=None if logs is None else TaskLogs(Path(logs["stdout"]), Path(logs["stderr"])),
    )
