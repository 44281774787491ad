"""What the terminal shows: results on stdout, everything else on stderr, never a wait for either.

A reader of ours that is slow or stopped (a paused `less`, Ctrl-S) must not hold up the parent: a kill, a
stop or a timer would wait with it. So nothing here blocks, and what the reader does not take waits in a
buffer. When that is full, the algorithm is held up, as it would be if it wrote to that reader itself: its
pipes are not read any more. That lasts STALL_S, at most, for each time that the buffer fills; then its
output is read on and dropped, and a line says how much, until the reader has taken half of the buffer.

    FLOWING  -- buffer full -->  HOLDING  -- STALL_S -->  DROPPING
       ^                            |                        |
       +-------- half of it is taken, or the reader has gone-+

Results are never dropped: a local run hands out no further task while they wait, and ends when they are
taken. The descriptors are not switched to non-blocking: they are shared with the shell. A pipe is opened
a second time for that; to a terminal, bytes go in pieces that one that says "writable" takes whole.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import select
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..io.loop import Loop, Timer

if TYPE_CHECKING:
    from .json_events import Events

#: A pipe that polls writable takes this much without blocking (pipe(7): PIPE_BUF).
_PIECE = 4096
#: A terminal's buffer is smaller, and it may be stopped with Ctrl-S.
_TTY_PIECE = 512
#: At most this much is tried at once, and written in one turn of the loop.
_TURN = 1024 * 1024
#: How long a line about one task of many may wait for others: a system call for each costs as much as the
#: task's own two messages.
SOON_S = 0.01
#: Small pieces are joined up to this size: each has a price beside its bytes.
_JOINED = 65536
#: What waits for a slow reader before the algorithm is held up. Twice that is the most that is kept.
BUFFER_MAX = 8 * 1024 * 1024
#: The longest that the algorithm is held up for a reader, each time that the buffer is full.
STALL_S = 1.0
#: What the end of hkrunner waits for a reader.
CLOSE_S = 1.0

_PLAIN = {"●": "*", "◌": "-", "▶": ">", "✔": "ok", "✘": "error:", "■": "*", "·": "-", "…": "...", "→": "->"}


#: What has failed is red, what is done green.
_COLORS = {"✘": "31", "✔": "32"}


class Flow(enum.Enum):
    """What becomes of the next bytes of the algorithm."""

    FLOWING = "they are written, or wait in the buffer"
    HOLDING = "they stay in the algorithm's pipe"
    DROPPING = "they are counted"


class Pump:
    """Writes to one descriptor without ever waiting for it."""

    def __init__(
        self, loop: Loop, fd: int, *, buffer_max: int | None = BUFFER_MAX, stall_s: float = STALL_S
    ) -> None:
        """`buffer_max` None: nothing is dropped; the caller looks at `waiting` and holds back."""
        self._loop = loop
        self._buffer_max = buffer_max
        self._stall_s = stall_s
        self._stall: Timer | None = None
        self._buffer: deque[bytearray | memoryview] = deque()
        self._written = 0  #: of the first piece in the buffer
        self._dropped_bytes = 0
        self._dropped_lines = 0
        self._in_line = False  #: what was dropped last did not end its line
        self.flow = Flow.FLOWING
        self.waiting = 0
        self.is_fresh = True  #: nothing was ever written
        self.broken = False
        self.problem: OSError | None = None  #: why it is broken
        self.at_line_start = True
        #: Called once when nothing waits any more.
        self.on_drained: Callable[[], None] | None = None
        #: Called when the algorithm need not be held up any more.
        self.on_release: Callable[[], None] = lambda: None
        self._fd = fd
        self._own: int | None = None
        self._poll: select.poll | None = select.poll()
        self._piece = _PIECE
        self._selectable = True  #: no selector takes a regular file or /dev/null; nor do they keep us waiting
        self._prepare()
        self._watched = False

    def _prepare(self) -> None:
        """Find out how much can be written at once without waiting."""
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError:
            return  # closed by whoever started us; the first write says so
        if stat.S_ISREG(mode):
            self._poll, self._piece, self._selectable = None, _TURN, False
        elif stat.S_ISFIFO(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            # It may be another user's, or its reader may have gone: then as with anything else.
            with contextlib.suppress(OSError):
                self._own = os.open(f"/proc/self/fd/{self._fd}", flags)
                self._fd, self._poll, self._piece = self._own, None, _TURN
        elif os.isatty(self._fd):
            self._piece = _TTY_PIECE
        if self._poll is not None:
            self._poll.register(self._fd, select.POLLOUT)

    def write(self, data: bytes, *, ours: bool = False) -> None:
        """Write, now or when the reader takes it, or count what is dropped.

        `ours`: a line of hkrunner's own; it is dropped only when there is no room at all.
        """
        if self.broken or not data:
            return
        most = self._buffer_max
        if most is not None:
            full = self.waiting + len(data) > 2 * most
            if full or (self.flow is Flow.DROPPING and not ours):
                self._drop(data)
                return
            if self._dropped_bytes:
                data = self._after_dropped(data, ours)
        self._append(data)
        if not self._watched:
            self.flush()
        if most is not None and self.waiting > most and self.flow is Flow.FLOWING:
            self.flow = Flow.HOLDING
            self._stall = self._loop.after(self._stall_s, self._give_up)

    def _drop(self, data: bytes) -> None:
        if not self._dropped_bytes and not self.at_line_start:
            # A line that has begun is shown to its end: what is counted are whole lines.
            cut = data.find(b"\n") + 1
            self._append(data[:cut])
            data = data[cut:]
            if not data:
                return
        self._dropped_bytes += len(data)
        self._dropped_lines += data.count(b"\n")
        self._in_line = not data.endswith(b"\n")

    def _after_dropped(self, data: bytes, ours: bool) -> bytes:
        """Return the data behind a line that says how much is missing."""
        if self._in_line and not ours:
            # The rest of a line whose beginning is gone would be taken for a line.
            cut = data.find(b"\n") + 1
            self._drop(data[:cut])
            data = data[cut:]
        self._note_dropped()
        return data

    def _note_dropped(self) -> None:
        lines = max(1, self._dropped_lines)
        what = "line was" if lines == 1 else "lines were"
        note = (
            f"[hkrunner: {lines:,} {what} dropped here ({self._dropped_bytes:,} bytes): "
            "the reader is too slow]\n"
        )
        self._append(("" if self.at_line_start else "\n").encode() + note.encode())
        self._dropped_bytes = self._dropped_lines = 0
        self._in_line = False

    def _give_up(self) -> None:
        self.flow = Flow.DROPPING
        self.on_release()

    def _flow_again(self) -> None:
        was, self.flow = self.flow, Flow.FLOWING
        if self._stall is not None:
            self._stall.cancel()
        if was is Flow.HOLDING:
            self.on_release()

    def _append(self, data: bytes) -> None:
        if not data:
            return
        last = self._buffer[-1] if self._buffer else None
        if len(data) >= _JOINED // 2:
            self._buffer.append(memoryview(data))
        elif isinstance(last, bytearray) and len(last) + len(data) <= _JOINED:
            last += data
        else:
            self._buffer.append(bytearray(data))
        self.waiting += len(data)
        self.is_fresh = False
        self.at_line_start = data.endswith(b"\n")

    def flush(self) -> None:
        """Write what the reader takes now."""
        left = _TURN
        while self._buffer and left > 0:
            count = self._write_once()
            if count == 0:
                break
            left -= count
        if self.flow is not Flow.FLOWING and self.waiting <= (self._buffer_max or 0) // 2:
            if self._dropped_bytes and not self._in_line:
                self._note_dropped()  # else with the next data, behind the rest of the line
            self._flow_again()
        if self._buffer:
            self._watch(True)
            return
        self._watch(False)
        callback, self.on_drained = self.on_drained, None
        if callback is not None:
            callback()

    def _write_once(self) -> int:
        """Write as much as is taken at once; return how much, 0 for nothing now."""
        if self._poll is not None and not self._poll.poll(0):
            return 0
        first = self._buffer[0]
        try:
            count = os.write(self._fd, memoryview(first)[self._written : self._written + self._piece])
        except BlockingIOError:
            return 0
        except OSError as error:
            # The reader has gone (`| head`), or the disk is full. There is nobody to tell.
            self.broken, self.problem = True, error
            self._buffer.clear()
            self.waiting = self._written = self._dropped_bytes = 0
            return 0
        self.waiting -= count
        self._written += count
        if self._written == len(first):
            self._buffer.popleft()
            self._written = 0
        return count

    def _watch(self, on: bool) -> None:
        if self._selectable and on != self._watched:
            try:
                self._loop.on_writable(self._fd, self.flush if on else None)
                self._watched = on
            except OSError:
                self._selectable = False
        if on and not self._selectable:
            self._loop.after(0, self.flush)

    def close(self, *, wait_s: float = CLOSE_S) -> None:
        """Write what waits, giving a slow reader this long; the descriptor stays open."""
        self._watch(False)
        if self._stall is not None:
            self._stall.cancel()
        if self._dropped_bytes:
            self._note_dropped()
        deadline = time.monotonic() + wait_s
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while self._buffer and (left_s := deadline - time.monotonic()) > 0:
            if poll.poll(left_s * 1000):
                self._write_once()
        self._buffer.clear()
        if self._own is not None:
            os.close(self._own)
            self._own = None


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
        """`local`: stdout carries results only, so both streams of the algorithm go to stderr. `results`: the
        descriptor they go to."""
        self._local = local
        self._quiet = quiet
        self.verbose = verbose
        self._encoding = encoding or "ascii"
        self._has_symbols = _has_symbols(self._encoding)
        self._color = color
        #: Told of everything that happens, with --output jsonl.
        self.events: Events | None = None
        self.out = Pump(loop, results, buffer_max=None if local else BUFFER_MAX)
        self.err = Pump(loop, 2)
        self._has_status = False
        self._lines: list[str] = []  #: that wait for others
        self._soon = loop.alarm(self._write_lines)
        #: Called when the algorithm need not be held up any more.
        self.on_release: Callable[[], None] = lambda: None
        self.out.on_release = self.err.on_release = self._release

    def show_status(self, line: str | None) -> None:
        """Show this line of the live view (see view.py) below everything, in place of the last; None: none.

        Left out where it would wait for a slow terminal, or cut a line of the algorithm's in two.
        """
        err = self.err
        if line is None and not self._has_status:
            return
        if line is not None and (err.waiting or not err.at_line_start):
            return
        err.write(b"\r\x1b[2K" + (line or "").encode(self._encoding, "replace"), ours=True)
        err.at_line_start = True  # what comes next begins by taking it away
        self._has_status = line is not None

    def result(self, line: bytes) -> None:
        """A result, whole on its line."""
        self.show_status(None)
        self.out.write(line + b"\n")

    def user(self, stream: str, data: bytes) -> None:
        """Bytes the algorithm has printed, as they are."""
        if self._lines:
            self._write_lines()
        self.show_status(None)
        if self.events is not None:
            self.events.printed(stream, data)
        (self.out if stream == "stdout" and not self._local else self.err).write(data)

    @property
    def holding(self) -> bool:
        """The algorithm's output is to stay in its pipes until on_release()."""
        return self.out.flow is Flow.HOLDING or self.err.flow is Flow.HOLDING

    def _release(self) -> None:
        if not self.holding:
            self.on_release()

    def when_taken(self, callback: Callable[[], None]) -> None:
        """Call back when the readers have taken everything: at once, if they have."""
        self._write_lines()
        for pump in (self.out, self.err):
            if pump.waiting:
                pump.on_drained = lambda: self.when_taken(callback)
                return
        callback()

    def say(self, text: str) -> None:
        """A line for whoever watches; not with --quiet."""
        if self._quiet:
            return
        if self._local:
            self._line(text)
            return
        # One of many about tasks: it waits SOON_S for others, to be written with them.
        self._lines.append(text)
        if len(self._lines) == 1:
            self._soon.set(SOON_S)

    def warn(self, text: str) -> None:
        """A line that is needed even with --quiet."""
        self._line(text)

    def debug(self, text: str) -> None:
        """A line for --verbose."""
        if self.verbose:
            self._line(text)

    def _line(self, text: str) -> None:
        self._lines.append(text)
        self._write_lines()

    def _write_lines(self) -> None:
        """Write the lines that wait for others."""
        self._soon.cancel()
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        self.show_status(None)
        begin = "" if self.err.at_line_start else "\n"
        shown = "".join([self._dressed(text) + "\n" for text in lines])
        self.err.write((begin + shown).encode(self._encoding, "backslashreplace"), ours=True)

    def _dressed(self, text: str) -> str:
        shown = text if self._has_symbols else plain(text, self._encoding)
        if self._color and (code := _COLORS.get(text[:1])) is not None:
            first, end, rest = shown.partition("\n")
            shown = f"\x1b[{code}m{first}\x1b[0m{end}{rest}"
        return shown

    def close(self) -> None:
        """Everything is written, or its reader is too slow for it."""
        self._write_lines()
        with contextlib.suppress(ValueError):
            self.out.close()
            self.err.close()


def wants_color(asked: str, environ: Mapping[str, str], fd: int = 2) -> bool:
    """Return whether what goes there is to have colors; `asked`: auto, always or never."""
    if asked != "auto":
        return asked == "always"
    return os.isatty(fd) and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"


def plain(text: str, encoding: str) -> str:
    """Return the text with our symbols replaced where the encoding has none of them."""
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
