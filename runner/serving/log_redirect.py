"""--redirect-logs: sends what an algorithm prints to the worker, whole lines in HKube's logData messages."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from ..io.line_splitter import LineSplitter

#: Lines sent to the worker in one message.
TOGETHER = 100


class LogLines(LineSplitter):
    """The lines of one stream of one task, with the number of those that could not be sent."""

    def __init__(self) -> None:
        super().__init__()
        self._dropped = 0

    def drop(self, count: int) -> None:
        """Count lines that could not be sent."""
        self._dropped += count

    def missed(self) -> list[str]:
        """Return a line about those that were dropped since the last call, if there were any."""
        count, self._dropped = self._dropped, 0
        return [f"[hkrunner: {count:,} lines were dropped here: the worker is too slow]"] if count else []


class LogDemand(Enum):
    """What to do with lines that are printed now."""

    SEND = auto()
    COUNT = auto()  #: the worker is slow: the next lines that are sent say how many are missing
    IGNORE = auto()  #: no task is being worked on


class LogRedirect:
    """Sends both streams of the current task to the worker, as whole lines."""

    def __init__(self, demand: Callable[[], LogDemand], send: Callable[[list[str]], None]) -> None:
        """`send` gets up to TOGETHER lines at a time."""
        self._demand = demand
        self._send = send
        self._streams: dict[str, LogLines] = {}

    def feed(self, stream: str, data: bytes) -> None:
        """Send the lines that are complete now."""
        lines = self._streams.setdefault(stream, LogLines())
        self._pass(lines, lines.feed(data))

    def end(self) -> None:
        """Send what is left, a line without an end: the task is over."""
        for lines in self._streams.values():
            self._pass(lines, lines.finish())
        self._streams.clear()

    def forget(self) -> None:
        """Drop what is left of a task that the worker has given up, so that the next one gets none of it."""
        self._streams.clear()

    def _pass(self, source: LogLines, lines: list[str]) -> None:
        demand = self._demand() if lines else LogDemand.IGNORE
        if demand is LogDemand.IGNORE:
            return
        if demand is LogDemand.COUNT:
            source.drop(len(lines))
            return
        lines = source.missed() + lines
        for begin in range(0, len(lines), TOGETHER):
            self._send(lines[begin : begin + TOGETHER])
