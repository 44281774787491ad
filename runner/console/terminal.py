"""Output: results on stdout, everything else on stderr; never blocks (see io/nonblocking_writer.py).

Results are never dropped: a local run hands out no further task while they wait, and ends when they have
been read. When the reader of what the algorithm prints is too slow, the algorithm's pipes are not read for a
while, as if it wrote to that reader itself; after that its output is dropped and counted.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Mapping

from ..io.loop import Loop
from ..io.nonblocking_writer import BUFFER_MAX, NonblockingWriter, WriterState
from .event_sink import EventSink

#: How long a line about one task of many may wait for others, to be written with one system call: a call
#: for each line costs as much as the two messages of a tiny task.
JOIN_LINES_S = 0.01
#: Our symbols where the terminal's encoding has none of them.
_PLAIN = {"●": "*", "◌": "-", "▶": ">", "✔": "ok", "✘": "error:", "■": "*", "·": "-", "…": "...", "→": "->"}
#: Characters in JSON that a terminal may obey, that change the direction of writing, or that end lines.
_UNSAFE = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
#: The same in a line about a task, and ASCII's control characters but tab and line feed.
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_NOT_ASCII = re.compile("[^\0-\x7f]+")
#: ANSI colors by a line's first symbol: failures are red, successes green.
_COLORS = {"✘": "31", "✔": "32"}


class Output:
    """stdout and stderr of hkrunner."""

    def __init__(
        self,
        loop: Loop,
        *,
        local: bool,
        quiet: bool = False,
        verbose: bool = False,
        encoding: str = "utf-8",
        color: bool = False,
        results: int = 1,
    ) -> None:
        """local: stdout carries results only, so both streams of the algorithm go to stderr.

        results: the descriptor that results are written to.
        """
        self._local = local
        self._quiet = quiet
        self.verbose = verbose
        self._encoding = encoding or "ascii"
        self._has_symbols = _has_symbols(self._encoding)
        #: What is escaped in results. A file has JSON as it is, in UTF-8.
        self._escaped = _escaped_in_results(self._encoding, results) if results == 1 else None
        self._color = color
        #: Receives every event of the run; writes them with --output jsonl only.
        self.events = EventSink()
        self.out = NonblockingWriter(loop, results, buffer_max=None if local else BUFFER_MAX)
        self.err = NonblockingWriter(loop, 2)
        #: Whether both are one terminal, pipe or file, and whether its last bytes came by stdout.
        self._is_one = _is_one(results, 2)
        self._is_after_out = False
        self._has_status = False
        self._lines: list[str] = []  #: lines that wait, to be written together with others
        self._joined = loop.alarm(self._write_lines)
        #: Called once when the algorithm's pipes may be read again.
        self._held_back: list[Callable[[], None]] = []
        self.out.on_release = self.err.on_release = self._release

    def show_status(self, line: str | None) -> None:
        """Replace the status line (see status_line.py) at the bottom by this one; None removes it.

        Nothing is drawn while the terminal is slow or the algorithm is in the middle of a line of its own.
        """
        err = self.err
        if line is None and not self._has_status:
            return
        if line is not None and (err.waiting or not err.at_line_start):
            return
        err.write(b"\r\x1b[2K" + (line or "").encode(self._encoding, "replace"), ours=True)
        err.at_line_start = True  # the next write removes it first
        self._has_status = line is not None

    def result(self, line: bytes) -> None:
        """Write a result, which is JSON, as one line to stdout."""
        self.show_status(None)
        if self._is_one and not self.err.at_line_start:
            self.err.write(b"\n", ours=True)  # the algorithm's last line has no end
        if self._escaped is not None and not line.isascii():
            text = line.decode("utf-8", "replace")
            line = self._escaped.sub(lambda found: json.dumps(found[0])[1:-1], text).encode()
        self.out.write(line + b"\n")

    def user(self, stream: str, data: bytes) -> None:
        """Pass on bytes that the algorithm has printed, unchanged."""
        self.events.printed(stream, data)
        self.pass_on(stream, data)

    def pass_on(self, stream: str, data: bytes) -> None:
        """Write what the algorithm has printed; no event."""
        if self._lines:
            self._write_lines()
        self.show_status(None)
        to_out = stream == "stdout" and not self._local
        (self.out if to_out else self.err).write(data)
        self._is_after_out = to_out and self._is_one

    def end_lines(self) -> None:
        """Pass on lines that are kept until they are finished."""
        self.events.end_lines()

    @property
    def holding(self) -> bool:
        """Whether the algorithm's output must stay in its pipes; when_released() says until when."""
        return self.out.state is WriterState.HOLDING or self.err.state is WriterState.HOLDING

    def when_released(self, callback: Callable[[], None]) -> None:
        """Call back once when the algorithm's pipes may be read again."""
        self._held_back.append(callback)

    def _release(self) -> None:
        if not self.holding:
            callbacks, self._held_back = self._held_back, []
            for callback in callbacks:
                callback()

    def when_taken(self, callback: Callable[[], None]) -> None:
        """Call back once the readers have taken everything: immediately if they have already."""
        self._write_lines()
        for writer in (self.out, self.err):
            if writer.waiting:
                writer.on_drained = lambda: self.when_taken(callback)
                return
        callback()

    def say(self, text: str) -> None:
        """Write a line to stderr, unless --quiet."""
        if self._quiet:
            return
        if self._local:
            self.line(text)
            return
        # Wait for further lines about tasks, to write them together.
        self._lines.append(text)
        if len(self._lines) == 1:
            self._joined.set(JOIN_LINES_S)

    def announce(self, text: str) -> None:
        """Write a line as say() does; with several processes, once for all of them."""
        self.say(text)

    def warn(self, text: str, *, task: str | None = None) -> None:
        """Write a line to stderr, even with --quiet, and a `warning` event.

        `task`: the name of the task that the line is about, where that has ended.
        """
        self.events.emit("warning", {"text": text} if task is None else {"taskId": task, "text": text})
        self.line(text)

    def debug(self, text: str) -> None:
        """Write a line to stderr with --verbose only."""
        if self.verbose:
            self.line(text)

    def line(self, text: str) -> None:
        """Write a line to stderr, even with --quiet."""
        self._lines.append(text)
        self._write_lines()

    def _write_lines(self) -> None:
        """Write the lines that wait."""
        self._joined.cancel()
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        self.show_status(None)
        begin = "" if (self.out if self._is_after_out else self.err).at_line_start else "\n"
        self._is_after_out = False
        shown = "".join([self._dressed(text) + "\n" for text in lines])
        self.err.write((begin + shown).encode(self._encoding, "backslashreplace"), ours=True)

    def _dressed(self, text: str) -> str:
        if not text.isprintable():  # much faster than the search for such a character
            text = _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
        shown = text if self._has_symbols else plain(text, self._encoding)
        if self._color and (code := _COLORS.get(text[:1])) is not None:
            first, end, rest = shown.partition("\n")
            shown = f"\x1b[{code}m{first}\x1b[0m{end}{rest}"
        return shown

    def close(self) -> None:
        """Write everything that waits, giving a slow reader CLOSE_S."""
        self._write_lines()
        with contextlib.suppress(ValueError):
            self.out.close()
            self.err.close()


def wants_color(asked: str, environ: Mapping[str, str]) -> bool:
    """Whether text on stderr is colored. asked: auto, always or never."""
    if asked != "auto":
        return asked == "always"
    return os.isatty(2) and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"


def _is_one(one: int, other: int) -> bool:
    """Whether both descriptors lead to the same terminal, pipe or file."""
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:  # one of them is closed
        return False


def _escaped_in_results(encoding: str, fd: int) -> re.Pattern[str] | None:
    """Return what is written as \\u… on stdout, which is the same JSON; None for nothing."""
    try:
        if codecs.lookup(encoding).name != "utf-8":
            return _NOT_ASCII
    except LookupError:
        return _NOT_ASCII
    return _UNSAFE if os.isatty(fd) else None


def plain(text: str, encoding: str) -> str:
    """Return the text with our symbols replaced by ASCII if the encoding lacks them."""
    if not _has_symbols(encoding):
        for symbol, word in _PLAIN.items():
            text = text.replace(symbol, word)
    return text


@functools.lru_cache(maxsize=8)
def _has_symbols(encoding: str) -> bool:
    try:
        "".join(_PLAIN).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
