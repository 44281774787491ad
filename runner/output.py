"""What the terminal shows: results on stdout, everything else on stderr, never a wait for either.

A reader of ours that is slow or stopped (a paused `less`, Ctrl-S) must not hold up the parent. So bytes
are written in pieces that a pipe or terminal that says "writable" takes whole, and the rest waits in a
bounded buffer. The descriptors are not switched to non-blocking: they are shared with the shell.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections import deque
from collections.abc import Callable

from .loop import Loop

#: A pipe that polls writable takes this much without blocking (pipe(7): PIPE_BUF).
_PIECE = 4096
#: A terminal's buffer is smaller, and it may be stopped with Ctrl-S.
_TTY_PIECE = 512
#: What waits for a slow reader, at most; what comes beyond it is dropped and counted.
BUFFER_MAX = 8 * 1024 * 1024

_PLAIN = {"●": "*", "◌": "-", "▶": ">", "✔": "ok", "✘": "error:", "■": "*", "·": "-", "…": "...", "→": "->"}


class Pump:
    """Writes to one descriptor without ever waiting for it."""

    def __init__(self, loop: Loop, fd: int, *, buffer_max: int | None = BUFFER_MAX) -> None:
        """`buffer_max` None: nothing is dropped; the caller looks at `waiting` and holds back."""
        self._loop = loop
        self._fd = fd
        self._buffer_max = buffer_max
        self._buffer: deque[memoryview] = deque()
        self.waiting = 0
        self.dropped = 0
        self.broken = False
        self.at_line_start = True
        #: Called once when nothing waits any more.
        self.on_drained: Callable[[], None] | None = None
        self._piece = _TTY_PIECE if os.isatty(fd) else _PIECE
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._watched = False

    def write(self, data: bytes) -> None:
        """Write, now or when the reader takes it. What does not fit the buffer is dropped and counted."""
        if self.broken or not data:
            return
        if self._buffer_max is not None and self.waiting + len(data) > self._buffer_max:
            self.dropped += data.count(b"\n") or 1
            return
        if self.dropped:
            note = (
                f"\n[hkrunner: {self.dropped:,} lines were dropped here: the reader is too slow]\n".encode()
            )
            self.dropped = 0
            self._append(note)
        self._append(data)
        if not self._watched:
            self.flush()

    def _append(self, data: bytes) -> None:
        self._buffer.append(memoryview(data))
        self.waiting += len(data)
        self.at_line_start = data.endswith(b"\n")

    def flush(self) -> None:
        """Write what the reader takes now."""
        turns = 0
        while self._buffer:
            if not self._poll.poll(0) or turns > 256:
                self._watch(True)
                return
            turns += 1
            data = self._buffer[0]
            try:
                count = os.write(self._fd, data[: self._piece])
            except BlockingIOError:
                self._watch(True)
                return
            except OSError:
                # The reader has gone (`| head`), or the disk is full. There is nobody to tell.
                self.broken = True
                self._buffer.clear()
                self.waiting = 0
                break
            self.waiting -= count
            if count == len(data):
                self._buffer.popleft()
            else:
                self._buffer[0] = data[count:]
        self._watch(False)
        callback, self.on_drained = self.on_drained, None
        if callback is not None:
            callback()

    def _watch(self, on: bool) -> None:
        if on == self._watched:
            return
        try:
            self._loop.on_writable(self._fd, self.flush if on else None)
            self._watched = on
        except OSError:
            # No selector takes a regular file or /dev/null; they do not keep anybody waiting either.
            self._loop.after(0, self.flush)

    def close(self, *, wait_ms: int = 1000) -> None:
        """Write what waits, giving a slow reader this long; the descriptor stays open."""
        self._watch(False)
        while self._buffer and self._poll.poll(wait_ms):
            data = self._buffer[0]
            try:
                count = os.write(self._fd, data[: self._piece])
            except OSError:
                break
            if count == len(data):
                self._buffer.popleft()
            else:
                self._buffer[0] = data[count:]
        self._buffer.clear()


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
    ) -> None:
        """`local`: stdout carries results only, so both streams of the algorithm go to stderr."""
        self._local = local
        self._quiet = quiet
        self._verbose = verbose
        self._encoding = encoding or "ascii"
        self.out = Pump(loop, 1, buffer_max=None if local else BUFFER_MAX)
        self.err = Pump(loop, 2)

    def result(self, line: bytes) -> None:
        """A result, whole on its line."""
        self.out.write(line + b"\n")

    def user(self, stream: str, data: bytes) -> None:
        """Bytes the algorithm has printed, as they are."""
        (self.out if stream == "stdout" and not self._local else self.err).write(data)

    def say(self, text: str) -> None:
        """A line for whoever watches; not with --quiet."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """A line that is needed even with --quiet."""
        self._line(text)

    def debug(self, text: str) -> None:
        """A line for --verbose."""
        if self._verbose:
            self._line(text)

    def _line(self, text: str) -> None:
        begin = "" if self.err.at_line_start else "\n"
        self.err.write(
            (begin + plain(text, self._encoding) + "\n").encode(self._encoding, "backslashreplace")
        )

    def close(self) -> None:
        """Everything is written, or its reader is too slow for it."""
        with contextlib.suppress(ValueError):
            self.out.close()
            self.err.close()


def plain(text: str, encoding: str) -> str:
    """Return the text with our symbols replaced where the encoding has none of them."""
    try:
        "".join(_PLAIN).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        for symbol, word in _PLAIN.items():
            text = text.replace(symbol, word)
    return text
