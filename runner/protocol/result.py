"""What came out of a task: a value, its form as JSON, and the exit status it leads to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ...sandbox.codec import codec
from ...sandbox.shared.messages import Protection
from ...sandbox.shared.outcome import Cause, Exit
from .error_codes import CODES, CRASHED, LOAD_ERROR, STOPPED
from .messages import Failure

#: What json.dumps() makes of outcome(), in a fifth of the time.
_BRIEF = (
    '{"status":"succeed","reason":null,"error":null,"startTime":%d,"endTime":%d,"durationMs":%r,'
    '"peakMemBytes":%s,"memLimitBytes":%s,"cpuSeconds":%s,"logs":null%s}\n'
)


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
    journal_number: int | None = None  #: of a task that is recorded in the journal instead
    record_name: str | None = None  #: by which `hkrunner runs` finds it
    peak_bytes: int | None = None
    needed_bytes: int = 0  #: a limit must leave this much, if that is more than the peak; 0: not measured
    limit_bytes: int | None = None
    cpu_s: float | None = None
    protection: Protection | None = None  #: how the limits are enforced, as the warden reported
    stop_s: float | None = None  #: from the asking to the end, of a task that was asked
    problems: list[str] = field(default_factory=list)
    position: int | None = None  #: of its input, in a run with --parallel

    def take_output(self, value: Any) -> None:
        """Have this value as the output; where JSON has no form for it, say so."""
        try:
            self.output = codec.as_json(value, "result")
        except codec.ResultInvalid as error:
            self.problems.append(f"the result has no form in JSON, so it is not shown: {error}")

    @property
    def _code(self) -> str:
        code = self.failure.code if self.failure is not None else ""
        # Without a limit, a MemoryError is an exception of the code like any other.
        if code == "MEMORY_ERROR" and self.limit_bytes is None:
            return "ALGORITHM_ERROR" if self.loaded else "IMPORT_FAILED"
        return code

    @property
    def reason(self) -> str | None:
        """Why there is no result; None when there is one."""
        if self.status == "succeed":
            return None
        if self.status == "stopped":
            return STOPPED
        reason = CODES[self._code].reason if self._code in CODES else CRASHED
        # A limit stays the reason during import too; any other end during import is a failure to load.
        return LOAD_ERROR if reason == CRASHED and not self.loaded else reason

    @property
    def exit_status(self) -> int:
        """hkrunner's exit status if this was the only task."""
        if self.status != "failed":
            return 0
        status = CODES[self._code].exit_status if self._code in CODES else None
        if status is not None and status != 1:
            return status
        if self.exit is not None and self.exit.cause is Cause.SIGNALLED and self.exit.signal is not None:
            return 128 + self.exit.signal
        return 1 if self.loaded else 4

    def facts(self) -> dict[str, Any]:
        """Return the fields of --json and task.json but for the output."""
        return {
            "taskId": self.task,
            "jobId": self.job,
            "nodeName": self.node,
            "pipelineName": self.pipeline,
            **self.outcome(),
        }

    def outcome(self, *, with_protection: bool = True) -> dict[str, Any]:
        """Return the same without the names of the task, and possibly without its protection."""
        error = None
        if self.failure is not None:
            one = self.failure
            error = {"code": one.code, "message": one.message, "details": one.details}
        logs = None
        if self.folder is not None:
            logs = {"stdout": f"{self.folder}/stdout.log", "stderr": f"{self.folder}/stderr.log"}
        facts: dict[str, Any] = {
            "status": self.status,
            "reason": self.reason,
            "error": error,
            "startTime": round(self.started_at * 1000),
            "endTime": round(self.ended_at * 1000),
            "durationMs": round(self.duration_s * 1000, 3),
            "peakMemBytes": self.peak_bytes,
            "memLimitBytes": self.limit_bytes,
            "cpuSeconds": None if self.cpu_s is None else round(self.cpu_s, 6),
        }
        if with_protection:
            facts["protection"] = self.protection.as_dict() if self.protection is not None else None
        facts["metricsDir"] = self.metrics_dir
        facts["logs"] = logs
        return facts

    def line(self) -> bytes:
        """Return the object of --json, on one line."""
        facts = self.facts()
        if self.position is not None:
            facts["inputIndex"] = self.position
        if self.problems:
            facts["problems"] = self.problems
        text = json.dumps(facts, separators=(",", ":"))
        return b'%s,"output":%s}' % (text[:-1].encode(), self.output if self.output is not None else b"null")


def brief_outcome(
    started_at: float,
    ended_at: float,
    duration_s: float,
    peak_bytes: int,
    limit_bytes: int | None,
    cpu_s: float,
    not_kept: dict[str, int] | None = None,
) -> bytes:
    """Return Result.outcome() as a line of JSON, for a task that succeeded and has no folder.

    not_kept: sizes of the values that were too large to be kept. Without the fields that the record of such a
    task has elsewhere: `protection` and `metricsDir`.
    """
    text = _BRIEF % (
        round(started_at * 1000),
        round(ended_at * 1000),
        round(duration_s * 1000, 3),
        peak_bytes or "null",
        "null" if limit_bytes is None else limit_bytes,
        round(cpu_s, 6),
        "" if not_kept is None else f',"notKept":{json.dumps(not_kept, separators=(",", ":"))}',
    )
    return text.encode()
