"""Messages from a child, a warden or the user's process, read as they come. Never blocks."""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable, Mapping

from ..shared.channel import INLINE_MAX, ChannelError, FrameReader, fds_of, read_buffer
from ..shared.message_format import ProcessMessage, decode
from .loop_protocol import LoopProtocol

#: Read at most this much before others get their turn: any message that is no memfd, in one read.
CHUNK_BYTES = INLINE_MAX
#: After more messages than MANY in one read, at most FLOOD_BYTES are read at once, or the rest of a message.
#: To handle 13,000 forged ones, for which a socket has room, takes up to 3 s, in which no ping is answered.
MANY = 500
FLOOD_BYTES = 8 * 1024
#: One buffer for all sockets: what is read is decoded at once, in one thread.
_scratch = read_buffer(CHUNK_BYTES)
_scratch_view = memoryview(_scratch)


class Reading(enum.Enum):
    """How far the reading of one socket is."""

    NOT_BEGUN = "nothing is read, not by drain() either"
    ON = "what comes is read"
    PAUSED = "what has come is read by drain() only"
    BROKEN = "something that is no message has come: nothing is read any more"
    ENDED = "the other side has closed the socket"
    CLOSED = "close() was called"


class FrameReceiver:
    """The reading side of one socket; it reads nothing before the first resume()."""

    def __init__(
        self,
        loop: LoopProtocol,
        sock: socket.socket,
        known: Mapping[int, type[ProcessMessage]],
        *,
        on_message: Callable[[int, ProcessMessage], None],
        on_error: Callable[[ChannelError], None],
        on_end: Callable[[bool], None],
    ) -> None:
        """`on_message(task, message)`: a memfd in the message is the callee's to close. `on_error`: what came
        was no message, and the socket is not read any more. `on_end(cut)`: the other side has closed it,
        `cut`: in the middle of a frame."""
        self._loop = loop
        self._socket = sock
        self._known = known
        self._on_message = on_message
        self._on_error = on_error
        self._on_end = on_end
        self._reader = FrameReader()
        self._reading = Reading.NOT_BEGUN
        self._buffer = _scratch_view
        self._has_flooded = False

    @property
    def has_ended(self) -> bool:
        """Whether the other side has closed the socket, and all that it sent was read."""
        return self._reading is Reading.ENDED

    def resume(self) -> None:
        """Read whatever comes from here on, unless the socket has ended or is broken."""
        if self._reading in (Reading.NOT_BEGUN, Reading.PAUSED):
            self._reading = Reading.ON
            self._loop.on_readable(self._socket.fileno(), self._read_once)

    def pause(self) -> None:
        """Read nothing until resume(): the other side waits once the socket is full."""
        if self._reading is Reading.ON:
            self._stop(Reading.PAUSED)

    def drain(self) -> None:
        """Read all that there is now, if reading has begun."""
        while self._reading in (Reading.ON, Reading.PAUSED) and self._read():
            pass

    def close(self) -> None:
        """Read nothing any more, and forget what was not complete."""
        self._stop(Reading.CLOSED)
        self._reader.close()

    def _stop(self, why: Reading) -> None:
        if self._reading is Reading.ON:
            self._loop.on_readable(self._socket.fileno(), None)
        self._reading = why

    def _read_once(self) -> None:
        self._read()

    def _read(self) -> bool:
        """Read once; return False when there is nothing more for now."""
        try:
            count, ancillary, _, _ = self._socket.recvmsg_into([self._buffer], 64, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError:
            count, ancillary = 0, []
        fds = fds_of(ancillary) if ancillary else []
        if not count and not fds:
            self._stop(Reading.ENDED)
            self._on_end(self._reader.partial > 0)
            return False
        try:
            frames = self._reader.feed(_scratch_view[:count], fds)
        except ChannelError as error:
            self._fail(error)
            return False
        if self._has_flooded or len(frames) > MANY:
            self._has_flooded = True
            self._buffer = _scratch_view[: max(FLOOD_BYTES, self._reader.missing)]
        for frame in frames:
            try:
                message = decode(frame, self._known)
            except ChannelError as error:
                self._fail(error)
                continue  # the callee still gets what follows: it closes the descriptors in it
            self._on_message(frame.task, message)
        return True

    def _fail(self, error: ChannelError) -> None:
        self._stop(Reading.BROKEN)
        self._on_error(error)
