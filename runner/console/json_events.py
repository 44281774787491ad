"""--output jsonl: the events of a run, one JSON object a line, for programs that follow it.

    {"event": "connected", "time": …, "url": …}           time: milliseconds since the epoch
    {"event": "initialized", "time": …, "taskId": "t1", …}

loaded, connected, initialized, started, progress, sample, log, warning, then for each task one of done,
stopped and errorMessage (with the fields of --json); killed before an errorMessage if hkrunner killed the
algorithm; board.

Writing never blocks. When the reader is too slow, log, sample and progress events are dropped, and the next
event that is written says how many: `dropped`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ...boards.runs.task_ids import TaskIds
from ...sandbox.shared.outcome import Cause, Exit
from ..io.line_splitter import LineSplitter
from ..io.nonblocking_writer import BUFFER_MAX, NonblockingWriter
from ..protocol.result import Result
from ..protocol.task_state import State
from .event_sink import EventSink

#: The end of a task is written unless this many bytes wait, as for a reader that neither reads nor closes.
_MUST_MAX = 16 * BUFFER_MAX
_MAY_DROP = frozenset(("log", "sample", "progress"))
_ENDED = {"succeed": "done", "failed": "errorMessage", "stopped": "stopped"}
#: Endings that the algorithm itself caused.
_NOT_KILLED = frozenset((Cause.EXITED, Cause.SIGNALLED, Cause.NOT_STARTED))


class JsonEvents(EventSink):
    """Writes the events of one run as JSON lines."""

    def __init__(self, writer: NonblockingWriter) -> None:
        self._writer = writer
        self._task: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._sampled_at = 0.0
        self._lines: dict[str, LineSplitter] = {}
        self._dropped = 0

    def for_one_process(self) -> JsonEvents:
        """Return a sink whose events carry the task of that process."""
        return JsonEvents(self._writer)

    def begin(self, ids: TaskIds) -> None:
        """Events from now on carry this task's id."""
        self.end_lines()
        self._task = {"taskId": ids.task}
        self._ids = {"jobId": ids.job, "nodeName": ids.node, "pipelineName": ids.pipeline}
        self._sampled_at = 0.0

    def moved(self, before: State, after: State) -> None:
        """Write `initialized` and `started` when the task gets there."""
        initialized = {State.INITIALIZED: State.INITIALIZING, State.RUNNING: State.STARTING}
        if initialized.get(after) is before:
            self.emit("initialized", self._ids)
        if after is State.RUNNING:
            self.emit("started", {})

    def sampled(self, samples: Sequence[tuple[float, float, int, int]]) -> None:
        """Write the last sample, if it is a new one."""
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
        if self._writer.waiting > (BUFFER_MAX if event in _MAY_DROP else _MUST_MAX):
            self._dropped += 1
            return
        if self._dropped:
            body = b'%s,"dropped":%d}' % (body[:-1], self._dropped)
            self._dropped = 0
        self._writer.write(body + b"\n")

    def printed(self, stream: str, data: bytes) -> None:
        """Write one event for each complete line."""
        for line in self._lines.setdefault(stream, LineSplitter()).feed(data):
            self.emit("log", {"stream": stream, "line": line})

    def end_lines(self) -> None:
        """Write one event for each line that was not finished."""
        for stream, lines in self._lines.items():
            for line in lines.finish():
                self.emit("log", {"stream": stream, "line": line})

    def result(self, result: Result) -> None:
        """Write how a task ended, as its last event."""
        self._task = {"taskId": result.task}
        self.end_lines()
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
