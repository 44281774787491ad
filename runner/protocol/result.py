"""What came out of a task: a value, its form as JSON, and the exit status it leads to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ...sandbox.shared.outcome import Exit
from .messages import Failure

#: reason in --json, by the code in front of the message. What the code has raised is its own error, and
#: its process goes on; of one that is gone it is the limit that ended it, else a crash.
_REASONS = {
    "ALGORITHM_ERROR": "AlgorithmError",
    "RESULT_INVALID": "AlgorithmError",
    "RESULT_TOO_LARGE": "AlgorithmError",
    "TOO_MANY_FILES": "AlgorithmError",
    "DENIED": "AlgorithmError",
    "MEMORY_ERROR": "MemoryLimit",
    "OUT_OF_MEMORY": "MemoryLimit",
    "SHARED_MEMORY_LIMIT": "MemoryLimit",
    "HOST_OOM": "MemoryLimit",
    "CPU_TIME_LIMIT": "CpuLimit",
    "TASK_TIMEOUT": "Timeout",
    "START_TIMEOUT": "LoadError",
    "ENTRY_NOT_FOUND": "LoadError",
    "ENTRY_INVALID": "LoadError",
    "IMPORT_FAILED": "LoadError",
    "STOP_FORCED": "Stopped",
    "EXITED": "Crashed",
    "KILLED_BY_SIGNAL": "Crashed",
    "TOO_MANY_PROCESSES": "Crashed",
    "DISK_LIMIT": "Crashed",
    "CHANNEL_BROKEN": "Crashed",
    "CLIENT_LOST": "Crashed",
    "RUNNER_ERROR": "Crashed",
}
_STATUSES = {
    "START_TIMEOUT": 4,
    "ENTRY_NOT_FOUND": 3,
    "ENTRY_INVALID": 4,
    "IMPORT_FAILED": 4,
    "OUT_OF_MEMORY": 137,
    "SHARED_MEMORY_LIMIT": 137,
    "HOST_OOM": 137,
    "CPU_TIME_LIMIT": 124,
    "TASK_TIMEOUT": 124,
}


def is_known(code: str) -> bool:
    """The code is one of ours, so reason and exit status follow from it."""
    return code in _REASONS


@dataclass
class Result:
    """One task, ended. `output` is the result's own JSON; None when there is none or it was not kept."""

    task: str
    job: str
    node: str
    pipeline: str
    status: str  #: "succeed", "failed" or "stopped", HKube's words
    started_at: float  #: seconds since the epoch
    ended_at: float
    duration_s: float
    output: bytes | None = None
    failure: Failure | None = None
    exit: Exit | None = None
    loaded: bool = True
    metrics_dir: str | None = None
    folder: str | None = None
    peak_bytes: int | None = None
    limit_bytes: int | None = None
    cpu_s: float | None = None
    #: What holds the limits, as the warden told: {"line", "level", "signals_confined"}.
    protection: dict[str, Any] | None = None
    stop_s: float | None = None  #: from the asking to the end, of a task that was asked
    problems: list[str] = field(default_factory=list)

    @property
    def reason(self) -> str | None:
        """Why there is no result; None when there is one."""
        if self.status == "succeed":
            return None
        if self.status == "stopped":
            return "Stopped"
        code = self.failure.code if self.failure else ""
        if code == "MEMORY_ERROR" and self.limit_bytes is None:
            return "AlgorithmError"
        reason = _REASONS.get(code, "Crashed")
        # A limit is told whenever it held; anything else that ends it at import means that it does not load.
        return "LoadError" if reason == "Crashed" and not self.loaded else reason

    @property
    def exit_status(self) -> int:
        """hkrunner's exit status if this was the only task."""
        if self.status != "failed":
            return 0
        code = self.failure.code if self.failure else ""
        if code == "MEMORY_ERROR" and self.limit_bytes is not None:
            return 137
        if code in _STATUSES:
            return _STATUSES[code]
        if self.exit is not None and self.exit.exit_status != 1:
            return self.exit.exit_status
        return 1 if self.loaded else 4

    def facts(self) -> dict[str, Any]:
        """Return the fields of --json and task.json but for the output."""
        error = None
        if self.failure is not None:
            one = self.failure
            error = {"code": one.code, "message": one.message, "details": one.details}
        logs = None
        if self.folder is not None:
            logs = {"stdout": f"{self.folder}/stdout.log", "stderr": f"{self.folder}/stderr.log"}
        return {
            "taskId": self.task,
            "jobId": self.job,
            "nodeName": self.node,
            "pipelineName": self.pipeline,
            "status": self.status,
            "reason": self.reason,
            "error": error,
            "startTime": round(self.started_at * 1000),
            "endTime": round(self.ended_at * 1000),
            "durationMs": round(self.duration_s * 1000, 3),
            "peakMemBytes": self.peak_bytes,
            "memLimitBytes": self.limit_bytes,
            "cpuSeconds": None if self.cpu_s is None else round(self.cpu_s, 6),
            "protection": self.protection,
            "metricsDir": self.metrics_dir,
            "logs": logs,
        }

    def line(self) -> bytes:
        """Return the object of --json, on one line."""
        facts = json.dumps(self.facts(), separators=(",", ":"))
        return b'%s,"output":%s}' % (facts[:-1].encode(), self.output if self.output is not None else b"null")
