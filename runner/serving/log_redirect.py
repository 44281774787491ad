"""What an algorithm prints, in whole lines, as HKube's logData messages (--redirect-logs)."""

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
        """That many lines could not be sent."""
        self._dropped += count

    def missed(self) -> list[str]:
        """Return a line about those that were dropped since the last call, if there were any."""
        count, self._dropped = self._dropped, 0
        return [f"[hkrunner: {count:,} lines were dropped here: the worker is too slow]"] if count else []


class Worker(Enum):
    """What becomes of lines now."""

    TAKES = auto()
    IS_SLOW = auto()  #: they are counted, and the next ones tell how many are missing
    WANTS_NONE = auto()  #: no task is on


class Redirect:
    """Both streams of the task that is on, on their way to the worker."""

    def __init__(self, worker: Callable[[], Worker], send: Callable[[list[str]], None]) -> None:
        """`send` gets up to TOGETHER lines at a time, when `worker` takes them."""
        self._worker = worker
        self._send = send
        self._streams: dict[str, LogLines] = {}

    def feed(self, stream: str, data: bytes) -> None:
        """Send the lines that are complete now."""
        lines = self._streams.setdefault(stream, LogLines())
        self._pass(lines, lines.feed(data))

    def end(self) -> None:
        """The task is over: a line without an end is sent too, and the next task begins anew."""
        for lines in self._streams.values():
            self._pass(lines, lines.finish())
        self._streams.clear()

    def forget(self) -> None:
        """What is left of a task that the worker has given up is none of the next one's."""
        self._streams.clear()

    def _pass(self, source: LogLines, lines: list[str]) -> None:
        worker = self._worker() if lines else Worker.WANTS_NONE
        if worker is Worker.WANTS_NONE:
            return
        if worker is Worker.IS_SLOW:
            source.drop(len(lines))
            return
        lines = source.missed() + lines
        for begin in range(0, len(lines), TOGETHER):
            self._send(lines[begin : begin + TOGETHER])
