"""What a child prints on stdout and stderr: read as it comes, in order, or left in the pipes for a while."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from functools import partial

from .loop_protocol import LoopProtocol

#: Read at most this much before others get their turn.
CHUNK_BYTES = 65536
#: Reads of a pipe (16 MiB) that get all that was printed before an answer, unless it is a flood.
DRAIN_READS = 256
#: A program that prints line after line would wake this process for each: after this many small reads without
#: a pause, its pipe is not read for REST_S, so that more can come.
QUICK_READS = 16
SMALL_BYTES = 16384
REST_S = 0.002


class OutputPipes:
    """The reading ends; nothing is read before start()."""

    def __init__(self, loop: LoopProtocol, on_data: Callable[[str, bytes], None]) -> None:
        """`on_data`: gets "stdout" or "stderr", and the bytes."""
        self._loop = loop
        self._on_data = on_data
        self._names: dict[int, str] = {}
        #: Polled before each read: one that finds nothing raises an exception, and costs five times as much.
        self._poll = select.poll()
        self._is_started = False
        self._is_held = False
        self._resting: set[int] = set()  #: pipes that are not read for REST_S
        self._read_at: dict[int, float] = {}
        self._quick_reads: dict[int, int] = {}

    def open(self, name: str) -> int:
        """Make a pipe of this name; return the writing end, which is the caller's to close."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        self._names[ours] = name
        self._poll.register(ours, select.POLLIN)
        return theirs

    def start(self) -> None:
        """Read whatever comes from here on."""
        self._is_started = True
        self.hold(self._is_held)

    def hold(self, on: bool) -> None:
        """Leave what the child prints in its pipes, so that it waits once they are full; or read on."""
        self._is_held = on
        self._resting.clear()
        for fd in self._names if self._is_started else ():
            self._watch(fd, not on)

    def _watch(self, fd: int, on: bool) -> None:
        """Read from this pipe as output comes. A task's answer is more urgent: before it, all is read."""
        self._loop.on_readable(fd, partial(self._on_readable, fd) if on else None, can_wait=True)

    def drain(self, reads: int) -> None:
        """Read what the child has printed up to now, with at most this many reads of each pipe."""
        for fd, _ in self._poll.poll(0):
            for _ in range(reads):
                if self._read(fd) < CHUNK_BYTES:
                    break  # it was all there was

    def close(self) -> None:
        """Close the pipes, whatever is left in them."""
        for fd in list(self._names):
            self._loop.on_readable(fd, None)
            os.close(fd)
        self._names.clear()
        self._poll = select.poll()
        self._resting.clear()

    def _on_readable(self, fd: int) -> None:
        for other in self._resting - {fd}:
            self._read(other)  # what was printed there came before
        count = self._read(fd)
        now = time.monotonic()
        is_quick = 0 < count < SMALL_BYTES and now - self._read_at.get(fd, 0.0) < 2 * REST_S
        self._read_at[fd] = now
        self._quick_reads[fd] = self._quick_reads.get(fd, 0) + 1 if is_quick else 0
        if self._quick_reads[fd] > QUICK_READS and fd in self._names and not self._is_held:
            self._resting.add(fd)
            self._watch(fd, False)
            self._loop.after(REST_S, partial(self._rested, fd))

    def _rested(self, fd: int) -> None:
        if fd in self._resting:
            self._resting.discard(fd)
            self._watch(fd, True)

    def _read(self, fd: int) -> int:
        """Read once from a pipe; return how much, 0 when there is nothing more for now."""
        try:
            data = os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            if self._names.pop(fd, None) is not None:
                self._resting.discard(fd)
                self._loop.on_readable(fd, None)
                self._poll.unregister(fd)
                os.close(fd)
            return 0
        self._on_data(self._names[fd], data)
        return len(data)
