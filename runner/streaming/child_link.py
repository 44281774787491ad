"""The data socket to the child, without blocking: what it cannot take now waits for it."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence

from ...sandbox.shared import shared_rings, stream_frames
from ...sandbox.shared.shared_rings import SharedRings
from ...sandbox.shared.stream_frames import Buffer, StreamFrame, StreamReader

#: Pieces that one system call may take (IOV_MAX is 1024).
PIECES_MAX = 256
#: Read what a child has written for at most this long: it might go on writing without end.
REST_S = 0.5


class ChildLink:
    """Our end of the data socket."""

    def __init__(self, fd: int) -> None:
        """Own the descriptor."""
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self._reader = StreamReader(self.socket)
        self._waiting: deque[memoryview] = deque()
        self._rings: SharedRings | None = None  #: once the child has them, too
        self._offered: SharedRings | None = None

    def read(self) -> list[StreamFrame]:
        """Return the frames that have come. Raises EOFError at the end, ValueError for too large a frame."""
        try:
            while True:
                frames = self._reader.read()
                if frames or not self._reader.is_within_large:
                    return frames
        except BlockingIOError:
            return []
        except OSError:
            raise EOFError from None

    def rest(self) -> Iterator[StreamFrame]:
        """Yield the frames of all that the child has written until now. Raises ValueError as read() does."""
        give_up_at = time.monotonic() + REST_S
        try:
            while time.monotonic() < give_up_at:
                yield from self._reader.read()
        except (OSError, EOFError):  # nothing more is there
            return

    def open(self, encoding: str, most_bytes: int) -> None:
        """Post the first frame, with memory for large payloads if there is some.

        `most_bytes`: no larger frame is read, so the child refuses to send one.
        """
        self._reader.most_bytes = most_bytes
        opened = stream_frames.frame(stream_frames.OPENED, most_bytes, encoding.encode())
        fd = -1
        try:
            fd = shared_rings.create()
            self._offered = SharedRings(fd, is_child=False)
            socket.send_fds(self.socket, [opened], [fd])  # the buffer is empty, so the kernel takes all of it
        except (OSError, ValueError):  # no memory, no descriptor, or no child, which read() reports
            self._waiting.append(memoryview(opened))
        finally:
            if fd >= 0:
                os.close(fd)

    def share(self) -> None:
        """Use the memory for large payloads from now on: the child has mapped it."""
        self._rings = self._offered

    def post_payload(self, number: int, head: Sequence[Buffer], payload: Buffer) -> None:
        """Have a message written by the next flush(); a large payload is in the shared memory then."""
        place = self._rings.put(payload) if self._rings is not None else None
        if place is None:
            self.post(stream_frames.MESSAGE, number, (*head, payload))
        else:
            self.post(stream_frames.MESSAGE_PLACE, number, (*head, place))

    def payload_at(self, place: Buffer) -> bytes:
        """Return a payload that the child has put into the shared memory. Raises ValueError."""
        if self._rings is None:
            raise ValueError("a place in memory that is not shared")
        return self._rings.take(place)

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
        """Write what waits, as far as the socket takes it."""
        waiting = self._waiting
        while waiting:
            pieces = [waiting[at] for at in range(min(len(waiting), PIECES_MAX))]
            try:
                sent = self.socket.sendmsg(pieces)
            except BlockingIOError:
                return
            except OSError:
                waiting.clear()  # the child has ended, which read() reports
                return
            while waiting and sent >= len(waiting[0]):
                sent -= len(waiting.popleft())
            if sent:
                waiting[0] = waiting[0][sent:]

    def close(self) -> None:
        """Close it, and forget what waits."""
        self._waiting.clear()
        self.socket.close()
