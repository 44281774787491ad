"""--output jsonl: what happens, as one JSON object a line, for programs that follow a run.

    {"event": "connected", "time": …, "url": …}           time: milliseconds since the epoch
    {"event": "initialized", "time": …, "taskId": "t1", …}

loaded, connected, initialized, started, progress, sample, log, then for each task one of done, stopped and
errorMessage (with the fields of --json); killed before an errorMessage that comes of a kill of ours; board.

Lines are written as they come, never waited for. When the reader is too slow, log, sample and progress are
left out, and the next one that is not says how many: `dropped`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ...boards.runs.task_record import TaskIds
from ...sandbox.shared.outcome import Cause, Exit
from ..protocol.result import Result
from ..protocol.task_state import State
from ..serving.log_redirect import LogLines
from .terminal import BUFFER_MAX, Pump

#: The end of a task is told unless this much waits, which takes a reader that is gone without closing.
_MUST_MAX = 16 * BUFFER_MAX
_MAY_DROP = frozenset(("log", "sample", "progress"))
_ENDED = {"succeed": "done", "failed": "errorMessage", "stopped": "stopped"}
#: Ends that nobody has brought about but the algorithm itself.
_NOT_KILLED = frozenset((Cause.EXITED, Cause.SIGNALLED, Cause.NOT_STARTED))


class Events:
    """Writes the events of one run."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._task: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._sampled_at = 0.0
        self._lines: dict[str, LogLines] = {}
        self._dropped = 0

    def begin(self, ids: TaskIds) -> None:
        """What comes from now on belongs to this task."""
        self._end_lines()
        self._task = {"taskId": ids.task}
        self._ids = {"jobId": ids.job, "nodeName": ids.node, "pipelineName": ids.pipeline}
        self._sampled_at = 0.0

    def moved(self, before: State, after: State) -> None:
        """The task is a step further."""
        initialized = {State.INITIALIZED: State.INITIALIZING, State.RUNNING: State.STARTING}
        if initialized.get(after) is before:
            self.emit("initialized", self._ids)
        if after is State.RUNNING:
            self.emit("started", {})

    def sampled(self, samples: Sequence[tuple[float, float, int, int]]) -> None:
        """Tell the last sample of what the task uses, if it is a new one."""
        if samples and samples[-1][0] > self._sampled_at:
            self._sampled_at, cores, memory, processes = samples[-1]
            told = {"cpuCores": round(cores, 3), "memoryBytes": memory, "processes": processes}
            self.emit("sample", told)

    def emit(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write one event."""
        body = json.dumps({**self._head(event), **fields}, separators=(",", ":")).encode()
        self._write(event, body)

    def _head(self, event: str) -> dict[str, Any]:
        return {"event": event, "time": round(time.time() * 1000), **self._task}

    def _write(self, event: str, body: bytes) -> None:
        if self._pump.waiting > (BUFFER_MAX if event in _MAY_DROP else _MUST_MAX):
            self._dropped += 1
            return
        if self._dropped:
            body = b'%s,"dropped":%d}' % (body[:-1], self._dropped)
            self._dropped = 0
        self._pump.write(body + b"\n")

    def printed(self, stream: str, data: bytes) -> None:
        """Tell what the algorithm has printed, a line an event."""
        for line in self._lines.setdefault(stream, LogLines()).feed(data):
            self.emit("log", {"stream": stream, "line": line})

    def _end_lines(self) -> None:
        for stream, lines in self._lines.items():
            for line in lines.finish():
                self.emit("log", {"stream": stream, "line": line})

    def result(self, result: Result) -> None:
        """Tell how a task has ended; nothing more of it follows."""
        self._task = {"taskId": result.task}
        self._end_lines()
        exit = result.exit
        if exit is not None and exit.cause not in _NOT_KILLED:
            self.emit("killed", _kill(exit))
        event = _ENDED[result.status]
        self._task = {}
        head = json.dumps(self._head(event), separators=(",", ":")).encode()
        self._write(event, b"%s,%s" % (head[:-1], result.line()[1:]))


def _kill(exit: Exit) -> dict[str, Any]:
    breach = exit.breach
    return {
        "code": exit.error_code,
        "used": breach.used if breach is not None else None,
        "allowed": breach.allowed if breach is not None else None,
        "processes": [[one.pid, one.name, one.memory_bytes] for one in (breach.top if breach else ())],
    }
