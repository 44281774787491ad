"""Where the events of a run go. The base class ignores them; json_events.JsonEvents writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...boards.runs.task_ids import TaskIds
from ..protocol.result import Result
from ..protocol.task_state import State


class EventSink:
    """Ignores every event: the sink of a run without --output jsonl."""

    def for_one_process(self) -> EventSink:
        """Return the sink for one of several processes that run at once."""
        return self

    def begin(self, ids: TaskIds) -> None:
        """Events from now on belong to this task."""

    def moved(self, before: State, after: State) -> None:
        """The task went from one state to another."""

    def sampled(self, samples: Sequence[tuple[float, float, int, int]]) -> None:
        """The task's resource usage was sampled: (seconds since the epoch, cores, bytes, processes)."""

    def emit(self, event: str, fields: Mapping[str, Any]) -> None:
        """An event that is not a change of the task's state."""

    def printed(self, stream: str, data: bytes) -> None:
        """The algorithm printed these bytes to stdout or stderr."""

    def end_lines(self) -> None:
        """The algorithm prints nothing more in this task."""

    def result(self, result: Result) -> None:
        """A task ended: its last event."""
