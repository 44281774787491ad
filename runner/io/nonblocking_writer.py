"""A writer to one descriptor that never blocks: what the reader does not take waits in a buffer.

A reader that is slow or stopped (a paused `less`, Ctrl-S) must not hold up the parent: a kill, a stop or a
timer would wait with it. When the buffer is full, the source of the bytes is to be held up, as it would be
if it wrote to that reader itself. That lasts STALL_S at most each time the buffer fills; then its bytes are
dropped and counted, and a line says how many, until the reader has taken half of the buffer.

    WRITING  -- buffer full -->  HOLDING  -- STALL_S -->  DROPPING
       ^                            |                        |
       +---- half of it is taken, or the reader has gone ----+

Descriptors are not switched to non-blocking: they are shared with the shell. A pipe is opened a second time
for that; to a terminal, bytes go in pieces that a descriptor which polls writable takes whole.
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import stat
import time
from collections import deque
from collections.abc import Callable

from .loop import Loop, Timer

#: A pipe that polls writable takes this much without blocking (pipe(7): PIPE_BUF).
_PIECE = 4096
#: A terminal's buffer is smaller, and it may be stopped with Ctrl-S.
_TTY_PIECE = 512
#: At most this much is tried at once, and written in one turn of the loop.
_TURN = 1024 * 1024
#: Small pieces are joined up to this size: each has a price beside its bytes.
_JOINED = 65536
#: Bytes that wait for a slow reader before the source is held up. At most twice that is buffered.
BUFFER_MAX = 8 * 1024 * 1024
#: The longest time the source is held up for a reader, each time the buffer is full.
STALL_S = 1.0
#: How long close() waits for a reader.
CLOSE_S = 1.0


class WriterState(enum.Enum):
    """What happens to the next bytes of the source."""

    WRITING = "written, or buffered"
    HOLDING = "left in the pipe they come from"
    DROPPING = "dropped and counted"


class NonblockingWriter:
    """Writes to one descriptor without ever waiting for its reader."""

    def __init__(
        self, loop: Loop, fd: int, *, buffer_max: int | None = BUFFER_MAX, stall_s: float = STALL_S
    ) -> None:
        """With buffer_max None nothing is dropped: the caller watches `waiting` and holds back."""
        self._loop = loop
        self._buffer_max = buffer_max
        self._stall_s = stall_s
        self._stall: Timer | None = None
        self._buffer: deque[bytearray | memoryview] = deque()
        self._written = 0  #: bytes of the buffer's first piece that are written
        self._dropped_bytes = 0
        self._dropped_lines = 0
        self._in_line = False  #: whether the bytes dropped last did not end their line
        self.state = WriterState.WRITING
        self.waiting = 0  #: bytes in the buffer
        self.is_fresh = True  #: whether nothing was ever written
        self.broken = False  #: whether the descriptor takes no bytes any more
        self.problem: OSError | None = None  #: the error that broke it
        self.at_line_start = True  #: whether the last byte written ended a line
        #: Called once, as soon as the buffer is empty.
        self.on_drained: Callable[[], None] | None = None
        #: Called when the source need not be held up any more.
        self.on_release: Callable[[], None] = lambda: None
        self._fd = fd
        self._own: int | None = None
        self._poll: select.poll | None = select.poll()
        self._piece = _PIECE
        #: Whether epoll takes the descriptor. It refuses regular files and /dev/null, which never block.
        self._selectable = True
        self._prepare()
        self._watched = False

    def _prepare(self) -> None:
        """Determine how much can be written at once without blocking."""
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError:
            return  # inherited closed; the first write reports it
        if stat.S_ISREG(mode):
            self._poll, self._piece, self._selectable = None, _TURN, False
        elif stat.S_ISFIFO(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            # Fails for another user's pipe and for one without a reader: then the descriptor itself is used.
            with contextlib.suppress(OSError):
                self._own = os.open(f"/proc/self/fd/{self._fd}", flags)
                self._fd, self._poll, self._piece = self._own, None, _TURN
        elif os.isatty(self._fd):
            self._piece = _TTY_PIECE
        if self._poll is not None:
            self._poll.register(self._fd, select.POLLOUT)

    def write(self, data: bytes, *, ours: bool = False) -> None:
        """Write the data now or when the reader takes it, or drop and count it.

        ours: a line of hkrunner's own, dropped only when the buffer is completely full.
        """
        if self.broken or not data:
            return
        most = self._buffer_max
        if most is not None:
            full = self.waiting + len(data) > 2 * most
            if full or (self.state is WriterState.DROPPING and not ours):
                self._drop(data)
                return
            if self._dropped_bytes:
                data = self._after_dropped(data, ours)
        self._append(data)
        if not self._watched:
            self.flush()
        if most is not None and self.waiting > most and self.state is WriterState.WRITING:
            self.state = WriterState.HOLDING
            self._stall = self._loop.after(self._stall_s, self._give_up)

    def _drop(self, data: bytes) -> None:
        if not self._dropped_bytes and not self.at_line_start:
            # Finish the line that has begun, so that whole lines are counted.
            cut = data.find(b"\n") + 1
            self._append(data[:cut])
            data = data[cut:]
            if not data:
                return
        self._dropped_bytes += len(data)
        self._dropped_lines += data.count(b"\n")
        self._in_line = not data.endswith(b"\n")

    def _after_dropped(self, data: bytes, ours: bool) -> bytes:
        """Write a line that says how much is missing; return the part of data that may follow it."""
        if self._in_line and not ours:
            # The rest of a line whose beginning was dropped would look like a whole line.
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
        self.state = WriterState.DROPPING
        self.on_release()

    def _resume(self) -> None:
        was, self.state = self.state, WriterState.WRITING
        if self._stall is not None:
            self._stall.cancel()
        if was is WriterState.HOLDING:
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
        """Write as much as the reader takes now."""
        left = _TURN
        while self._buffer and left > 0:
            count = self._write_once()
            if count == 0:
                break
            left -= count
        if self.state is not WriterState.WRITING and self.waiting <= (self._buffer_max or 0) // 2:
            if self._dropped_bytes and not self._in_line:
                self._note_dropped()  # otherwise with the next data, after the rest of the line
            self._resume()
        if self._buffer:
            self._watch(True)
            return
        self._watch(False)
        callback, self.on_drained = self.on_drained, None
        if callback is not None:
            callback()

    def _write_once(self) -> int:
        """Write once without blocking; return the number of bytes written."""
        if self._poll is not None and not self._poll.poll(0):
            return 0
        first = self._buffer[0]
        try:
            count = os.write(self._fd, memoryview(first)[self._written : self._written + self._piece])
        except BlockingIOError:
            return 0
        except OSError as error:
            # The reader has gone (`| head`), or the disk is full: a message about it could not be read.
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
        """Write the buffer, giving a slow reader wait_s; the descriptor stays open."""
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
