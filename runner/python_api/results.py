"""The types that hkrunner.run() returns, passes to on_event, and raises."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex, overload

from ..errors import HkrunnerError


class TaskFailed(HkrunnerError):
    """A task failed or was stopped; `result` is its TaskResult."""

    def __init__(self, result: TaskResult) -> None:
        super().__init__(f"task {result.task_id} {result.status} ({result.reason}): {result.message}")
        self.result = result

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[TaskResult]]:
        """Have pickle restore it from its result."""
        return type(self), (self.result,)


class Incomplete(HkrunnerError):
    """hkrunner ended before every task had run; `results` has the tasks that did run."""

    def __init__(self, sentence: str, results: list[TaskResult]) -> None:
        super().__init__(sentence)
        self.results = results


@dataclass(frozen=True)
class TaskError:
    """Why a task failed: `code` is one of hkrunner's error codes, `details` the traceback, or empty."""

    code: str
    message: str
    details: str


@dataclass(frozen=True)
class TaskLogs:
    """The files with the output of the algorithm."""

    stdout: Path
    stderr: Path


@dataclass(frozen=True)
class TaskResult:
    """A task that has ended: its status, output, error and resource usage."""

    task_id: str
    job_id: str
    status: str  #: "succeed", "failed" or "stopped", as HKube names them
    reason: str | None  #: None if the task succeeded; else MemoryLimit, Timeout, AlgorithmError, …
    output: Any  #: what start() returned, read from JSON; None if the task did not succeed
    error: TaskError | None
    duration_s: float
    peak_bytes: int | None  #: most memory in use at one time, all processes together; None: not measured
    limit_bytes: int | None  #: the memory limit; None: no limit
    cpu_s: float | None  #: CPU time of all processes
    metrics_dir: Path | None  #: folder of the task's event files
    logs: TaskLogs | None
    input_index: int | None = None  #: position of its input, from 0; None: not run with parallel= or on=
    #: Sentences about what did not make it fail: a process that may have been refused memory, a lost record.
    problems: list[str] = field(default_factory=list)

    def _repr_html_(self) -> str:
        return TaskResults([self])._repr_html_()

    @property
    def ok(self) -> bool:
        """Whether the task succeeded."""
        return self.status == "succeed"

    @property
    def message(self) -> str:
        """Why the task did not succeed, in a sentence; "" if it did."""
        return self.error.message if self.error is not None else self.reason or ""

    def raise_for_status(self) -> TaskResult:
        """Return self if the task succeeded, else raise TaskFailed."""
        __tracebackhide__ = True  # pytest shows the line of the test instead of ours
        if not self.ok:
            raise TaskFailed(self)
        return self


#: Results that a notebook shows, which keeps them in its file: 2,000 had 0.9 MB, and took seconds.
NOTEBOOK_MAX = 200


class TaskResults(list[TaskResult]):
    """The results of a run, in the order of the inputs; a notebook shows them as a report."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> TaskResult: ...

    @overload
    def __getitem__(self, index: slice, /) -> TaskResults: ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> TaskResult | TaskResults:
        found = super().__getitem__(index)
        return (
            TaskResults(found) if isinstance(found, list) else found
        )  # so that a notebook shows a part, too

    def _repr_html_(self) -> str:
        from ..app.report import html_of  # late: only notebooks ask for it

        drawn = self[-NOTEBOOK_MAX:]
        folders = [None if one.logs is None else one.logs.stdout.parent for one in drawn]
        return html_of(folders, [_shown(one) for one in drawn], left_out=len(self) - len(drawn))


def _shown(result: TaskResult) -> dict[str, Any]:
    """Return what a report shows of a result whose record is gone."""
    error = result.error
    output = None if result.output is None else json.dumps(result.output, ensure_ascii=False)
    return {
        "run": result.task_id,
        "status": result.status,
        "reason": result.reason,
        "duration_s": result.duration_s,
        "peak_bytes": result.peak_bytes,
        "limit_bytes": result.limit_bytes,
        "cpu_s": result.cpu_s,
        "error": "" if error is None else error.message,
        "details": "" if error is None else error.details,
        "output": {} if output is None else {"result": output},
    }


@dataclass(frozen=True)
class Printed:
    """A line that the algorithm or hkrunner has printed, without the line break."""

    line: str
    task_id: str | None = None  #: None: printed outside of tasks, for example while the code loads
    stream: str | None = None  #: "stdout" or "stderr" of the algorithm; None: a line of hkrunner


@dataclass(frozen=True)
class RunEvent:
    """Another event of the run: one of `--output jsonl` that is neither a line nor a result."""

    #: loaded, connected, submitted, initialized, started, progress, sample or killed; dropped: see run()
    name: str
    task_id: str | None  #: None: the event belongs to no task
    time_s: float  #: when it happened, in seconds since 1970
    fields: Mapping[str, Any]  #: its other fields, as in `--output jsonl`


def read_events(line: bytes) -> Iterator[Printed | RunEvent | TaskResult]:
    """Yield the event of a line of --output jsonl, after an event `dropped` if others were lost before it."""
    told = _decoded(line)
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


def _decoded(line: bytes) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(line)
    except RecursionError:  # up to Python 3.12, the calls of the program that called us count, too
        with ThreadPoolExecutor(1) as thread:
            told = thread.submit(json.loads, line).result()
    return told


def _result(told: Mapping[str, Any]) -> TaskResult:
    error, logs = told["error"], told["logs"]
    return TaskResult(
        task_id=told["taskId"],
        job_id=told["jobId"],
        status=told["status"],
        reason=told["reason"],
        output=told["output"],
        error=None if error is None else TaskError(error["code"], error["message"], error["details"] or ""),
        duration_s=round(told["durationMs"] / 1000, 6),
        peak_bytes=told["peakMemBytes"],
        limit_bytes=told["memLimitBytes"],
        cpu_s=told["cpuSeconds"],
        metrics_dir=None if told["metricsDir"] is None else Path(told["metricsDir"]),
        logs=None if logs is None else TaskLogs(Path(logs["stdout"]), Path(logs["stderr"])),
        input_index=told.get("inputIndex"),
        problems=told.get("problems", []),
    )
