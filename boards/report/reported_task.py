"""What a report shows of one task, read from its record."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..runs.compared_tasks import ComparedTask, compare_tasks
from ..runs.files import integer_in, number_in
from ..runs.history import Curve, read_metrics, show_task
from ..runs.layout import STREAMS
from ..runs.task_output import TaskOutput
from ..runs.task_values import Scalar

#: How much of a task's output is read, and shown.
_TAIL_BYTES = 64 * 1024
_TAIL_LINES = 40
_LINE_MAX = 400
#: Control sequences of terminals, such as colors, and the titles of windows.
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


@dataclass(frozen=True)
class LogTail:
    """The last lines of what a task printed; is_cut: there were more."""

    text: str = ""
    is_cut: bool = False


@dataclass(frozen=True)
class ReportedTask:
    """One task. None and empty values are those that the record does not have."""

    run: str  #: its name on a board of the reported tasks
    status: str
    reason: str | None = None
    entry: str = ""
    place: str = ""  #: pipeline and node
    started_s: float | None = None  #: seconds since the epoch
    duration_s: float | None = None
    peak_bytes: int | None = None
    limit_bytes: int | None = None
    cpu_s: float | None = None
    limits: str = ""
    error: str = ""
    details: str = ""  #: of the error: a traceback
    inputs: Mapping[str, Scalar] = field(default_factory=dict)
    output: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    logs: Mapping[str, LogTail] = field(default_factory=dict)


def reported_tasks(root: Path, names: Sequence[str]) -> list[ReportedTask]:
    """Return the tasks with these names, in this order. Raises NotFound, and StoreError for a bad record."""
    summaries = [show_task(root, name).summary for name in dict.fromkeys(names)]
    return [_task(root, one) for one in compare_tasks(root, summaries, writes_cache=False)]


def _task(root: Path, compared: ComparedTask) -> ReportedTask:
    summary, values = compared.summary, compared.values
    details = show_task(root, summary.name)
    facts = details.facts
    error, protection = _object(facts.get("error")), _object(facts.get("protection"))
    return ReportedTask(
        run=compared.run,
        status=summary.status,
        reason=summary.reason,
        entry=summary.entry,
        place=f"{summary.pipeline}/{summary.node}",
        started_s=summary.start_time / 1000,
        duration_s=None if summary.duration_ms is None else summary.duration_ms / 1000,
        peak_bytes=summary.peak_bytes,
        limit_bytes=integer_in(facts.get("memLimitBytes")),
        cpu_s=number_in(facts.get("cpuSeconds")),
        limits=str(protection.get("line") or "").removeprefix("limits: "),
        error=str(error.get("message") or ""),
        details=str(error.get("details") or ""),
        inputs=values.inputs,
        output=values.output,
        metrics=values.metrics,
        curves=read_metrics(root, summary.name),
        logs={
            stream: _tail(root, summary.name, stream, details.printed.get(stream, 0)) for stream in STREAMS
        },
    )


def _tail(root: Path, name: str, stream: str, size: int) -> LogTail:
    """Return the last lines. size: of the output so far."""
    offset = max(0, size - _TAIL_BYTES)
    data = b""
    output = TaskOutput(root, name)
    while part := output.read(stream, offset=offset, limit_bytes=_TAIL_BYTES).data:
        data = (data + part)[-_TAIL_BYTES:]
        offset += len(part)
    is_cut = offset > len(data)
    text = data.decode("utf-8", "replace")
    if is_cut:
        text = text.partition("\n")[2] or text  # the first line has no beginning
    return tail_of(text, is_cut=is_cut)


def tail_of(text: str, *, is_cut: bool = False) -> LogTail:
    """Return the last lines of the text as a terminal would show them, without colors."""
    lines = _TERMINAL.sub("", text).replace("\r\n", "\n").rstrip("\n").split("\n")
    # A progress bar goes back to the beginning of its line.
    shown = [line.rstrip("\r").rpartition("\r")[2] for line in lines[-_TAIL_LINES:]]
    shown = [line if len(line) <= _LINE_MAX else f"{line[:_LINE_MAX]}…" for line in shown]
    return LogTail("\n".join(shown), is_cut or len(lines) > _TAIL_LINES)


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
