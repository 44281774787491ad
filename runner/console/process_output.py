"""The output of one of several processes that run at once: whole lines, and events of its own."""

from __future__ import annotations

from collections.abc import Callable

from .terminal import Output

#: An unfinished line of this length is passed on as it is.
LINE_MAX = 65536


class ProcessOutput(Output):
    """Passes on what one process prints, line by line, so that lines of several processes do not mix."""

    def __init__(self, output: Output, announced: set[str]) -> None:
        """announced: the lines that one of the processes has announced; it is common to all of them."""
        self._to = output
        self._announced = announced
        self._unfinished: dict[str, bytes] = {}  #: the beginning of a line, by stream
        self.out, self.err, self.verbose = output.out, output.err, output.verbose
        self.events = output.events.for_one_process()

    def user(self, stream: str, data: bytes) -> None:
        """Pass on the lines that the algorithm has finished; keep the rest for the next call."""
        self.events.printed(stream, data)
        lines, end, rest = (self._unfinished.pop(stream, b"") + data).rpartition(b"\n")
        if len(rest) > LINE_MAX:
            lines, rest = lines + end + rest, b""
            end = b""
        if rest:
            self._unfinished[stream] = rest
        if lines or end:
            self._write_lines_of(stream, lines + end)

    def end_lines(self) -> None:
        """Pass on the lines that were not finished, as lines."""
        super().end_lines()
        for stream, rest in self._unfinished.items():
            self._write_lines_of(stream, rest + b"\n")
        self._unfinished.clear()

    def _write_lines_of(self, stream: str, lines: bytes) -> None:
        self._to.pass_on(stream, lines)

    def when_released(self, callback: Callable[[], None]) -> None:
        """Call back once when the algorithm's pipes may be read again."""
        self._to.when_released(callback)

    def announce(self, text: str) -> None:
        """Write a line that is the same for all processes, once."""
        if text not in self._announced:
            self._announced.add(text)
            self._to.announce(text)

    def say(self, text: str) -> None:
        """Write a line, unless --quiet."""
        self._to.say(text)

    def line(self, text: str) -> None:
        """Write a line, even with --quiet."""
        self._to.line(text)
