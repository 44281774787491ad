"""The data socket to the child, without blocking: what it cannot take now waits for it."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence

from ...sandbox.shared import stream_frames
from ...sandbox.shared.stream_frames import Buffer, StreamFrame, StreamReader

#: Pieces that one system call may take (IOV_MAX is 1024).
PIECES_MAX = 256


class ChildLink:
    """Our end of the data socket."""

    def __init__(self, fd: int) -> None:
        """Own the descriptor."""
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self._reader = StreamReader(self.socket)
        self._waiting: deque[memoryview] = deque()

    def read(self) -> list[StreamFrame]:
        """Return the frames that are there; raises EOFError at the end."""
        try:
            while True:
                frames = self._reader.read()
                if frames or not self._reader.is_within_large:
                    return frames
        except BlockingIOError:
            return []
        except OSError:
            raise EOFError from None

    def post(self, kind: int, number: int = 0, body: Sequence[Buffer] = ()) -> None:
        """Have a frame written by the next flush()."""
        length = sum(map(len, body))
        self._waiting.append(memoryview(stream_frames.HEAD.pack(length, kind, number)))
        self._waiting.extend(memoryview(piece) for piece in body)

    @property
    def is_full(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Write what waits, as far as the child takes it."""
        waiting = self._waiting
        while waiting:
            pieces = [waiting[at] for at in range(min(len(waiting), PIECES_MAX))]
            try:
                sent = self.socket.sendmsg(pieces)
            except BlockingIOError:
                return
            except OSError:
                waiting.clear()  # the child has ended: read() says so
                return
            while waiting and sent >= len(waiting[0]):
                sent -= len(waiting.popleft())
            if sent:
                waiting[0] = waiting[0][sent:]

    def close(self) -> None:
        """Close it, and forget what waits."""
        self._waiting.clear()
        self.socket.close()
