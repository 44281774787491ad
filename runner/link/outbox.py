"""The messages that wait to be sent to the worker, in order, and the frame that is being written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from .frames import CONTINUATION, frame

#: Above either, the child has to wait before it can send more.
CONGESTED_BYTES = 128 * 1024 * 1024
CONGESTED_MESSAGES = 1000
#: A large message goes out in frames of this size, so that a pong or a kill never waits for it. Half the size
#: takes a twentieth more CPU time for a message of 10 MB, a quarter of it a tenth.
PIECE = 256 * 1024


class MessageSource(Protocol):
    """A large message to send whose bytes are not in our memory."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly this piece. Raises OSError when it cannot be read."""

    def close(self) -> None:
        """Release the bytes: the message is sent, or never will be."""


class Outgoing:
    """A message in the outbox. A final answer is kept for a while after it was written."""

    __slots__ = ("data", "final", "prelude", "source")

    def __init__(self, data: bytes, source: MessageSource | None, final: bool, prelude: bytes = b"") -> None:
        """`prelude`: a small message that goes right before this one, whenever this one is sent."""
        self.data = data
        self.source = source
        self.final = final
        self.prelude = prelude

    @property
    def size(self) -> int:
        """Size of the message in bytes."""
        return len(self.data) if self.source is None else self.source.size

    def _parts(self, opcode: int) -> Sequence[tuple[int, int]]:
        """Return opcode and size of each WebSocket message that it is: with attachments, several."""
        return getattr(self.source, "parts", None) or ((opcode, self.size),)

    @property
    def frame_count(self) -> int:
        """Number of its frames."""
        return sum(max(1, -(-size // PIECE)) for _, size in self._parts(0)) + bool(self.prelude)

    def frames(self, opcode: int) -> Iterator[bytes]:
        """Yield its frames, masked, one at a time."""
        if self.prelude:
            yield frame(opcode, self.prelude)
        view, at = memoryview(self.data), 0
        for kind, size in self._parts(opcode):
            end = at + size
            for begin in range(at, end, PIECE) if size else (at,):
                length = min(PIECE, end - begin)
                if self.source is None:
                    piece: bytes | memoryview = view[begin : begin + length]
                else:
                    piece = self.source.read(begin, length)
                yield frame(kind if begin == at else CONTINUATION, piece, last=begin + length == end)
            at = end

    def close(self) -> None:
        """Release the message: it is sent, or never will be."""
        if self.source is not None:
            self.source.close()


class Outbox:
    """The messages to one worker, over all connections to it. The caller writes `chunk` to the socket."""

    def __init__(self, opcode: int, clock: Callable[[], float]) -> None:
        self._opcode = opcode
        self._clock = clock
        self._queue: deque[Outgoing] = deque()
        self._waiting_bytes = 0
        self._frames: Iterator[bytes] | None = None  #: of the first message, while it is being sent
        self._frames_left = 0  #: number of its frames after the one in the chunk
        self._control: deque[bytes] = deque()
        self._ping: bytes | None = None  #: a ping of socket.io, which is an ordinary message
        #: Bytes to be written next: the rest of a frame.
        self.chunk = memoryview(b"")
        #: The final answer that was written last, and when: a drop right after it may lose it.
        self.written: tuple[Outgoing, float] | None = None
        #: Called once when the outbox is no longer congested.
        self.on_relieved: Callable[[], None] | None = None

    def __bool__(self) -> bool:
        """Whether messages wait."""
        return bool(self._queue)

    @property
    def congested(self) -> bool:
        """Whether so much waits that nothing should be added; on_relieved is called when it is less."""
        return self._waiting_bytes > CONGESTED_BYTES or len(self._queue) > CONGESTED_MESSAGES

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._queue and not self.chunk

    @property
    def more_follows(self) -> bool:
        """Whether the next chunk follows at once: of the same message, or of one that goes with this one."""
        if self._frames is None:
            return False
        # A message that is no answer is begun only for a worker that takes whatever comes after it, too.
        return self._frames_left > 0 or (len(self._queue) > 1 and not self._queue[0].final)

    @property
    def is_empty(self) -> bool:
        """Whether no message waits, none is partly sent, and no control frame waits."""
        return not (self._queue or self.chunk or self._control or self._ping)

    def put(self, one: Outgoing) -> None:
        """Add a message, to be sent after those before it."""
        self._queue.append(one)
        self._waiting_bytes += one.size

    def put_control(self, frame: bytes) -> None:
        """Have a control frame sent before any further frame of a message."""
        self._control.append(frame)

    def put_ping(self, frame: bytes) -> None:
        """Have a ping sent that is a message of its own, before the next message is begun."""
        self._ping = frame

    @property
    def ping_waits(self) -> bool:
        """Whether a ping waits for the end of a message that is being sent."""
        return self._ping is not None

    def put_cut(self, one: Outgoing, rest: memoryview) -> None:
        """Add a message whose direct write was cut; `rest`: the unwritten bytes of its only frame."""
        self.chunk = rest
        self.put(one)
        self._frames, self._frames_left = iter(()), 0

    def keep_written(self, answer: Outgoing) -> None:
        """Keep a final answer that was written: it may have to be sent again."""
        if self.written is not None:
            self.forget_written()
        self.written = (answer, self._clock())

    def put_last_again(self) -> None:
        """Send the answer that was written last once more."""
        if self.written is not None:
            (answer, _), self.written = self.written, None
            self.put(answer)

    def put_last_first(self) -> None:
        """Send the answer that was written last next: it has not left this machine."""
        if self.written is not None:
            (answer, _), self.written = self.written, None
            self._queue.appendleft(answer)
            self._waiting_bytes += answer.size

    @property
    def has_answer(self) -> bool:
        """Whether a final answer waits, or is partly sent."""
        return any(one.final for one in self._queue)

    def forget_ended(self) -> bool:
        """Drop the messages of tasks that are over; return whether an answer was among them."""
        if not self.lead_with_answer():
            return False
        while self.has_answer:
            one = self._queue.popleft()
            self._waiting_bytes -= one.size
            one.close()
        self._relieve()
        return True

    def lead_with_answer(self) -> bool:
        """Make a waiting final answer the next message; return whether there is one.

        Messages before it are dropped: they belong to a task that is over.
        """
        if not self.has_answer:
            return False
        while not self._queue[0].final:
            one = self._queue.popleft()
            self._waiting_bytes -= one.size
            one.close()
        self._relieve()
        return True

    def next_chunk(self, may_begin: Callable[[], bool]) -> bool:
        """Make the next frame the chunk; return False when there is nothing to write.

        Control frames go between the frames of a large message. `may_begin`: asked before a message begins.
        """
        if self._control:
            self.chunk = memoryview(self._control.popleft())
            return True
        while True:
            if self._frames is None:
                if self._ping is not None:
                    self.chunk, self._ping = memoryview(self._ping), None
                    return True
                if not self._queue or not may_begin():
                    return False
                self._frames = self._queue[0].frames(self._opcode)
                self._frames_left = self._queue[0].frame_count
            frame = next(self._frames, None)
            if frame is not None:
                self._frames_left -= 1
                self.chunk = memoryview(frame)
                return True
            # The kernel has all of it now.
            self._frames = None
            self._sent(self._queue.popleft())

    def _sent(self, one: Outgoing) -> None:
        self._waiting_bytes -= one.size
        if one.final:
            self.keep_written(one)
        else:
            one.close()
        self._relieve()

    def _relieve(self) -> None:
        if self.on_relieved is not None and not self.congested:
            callback, self.on_relieved = self.on_relieved, None
            callback()

    def dropped(self) -> None:
        """Prepare for the next connection: a message that was cut is sent again, whole."""
        self._frames = None
        self.chunk = memoryview(b"")
        self._control.clear()
        self._ping = None

    def clear(self) -> bool:
        """Drop every message that has not begun; return whether an answer has, and must not be completed."""
        cut = self._frames is not None and bool(self._queue) and self._queue[0].final
        kept = self._queue.popleft() if self._frames is not None and not cut else None
        for one in self._queue:
            one.close()
        self._queue.clear()
        self._waiting_bytes = 0
        self.forget_written()
        if kept is not None:
            self.put(kept)
        self._relieve()
        return cut

    def forget_written(self) -> None:
        """Release the kept answer: it has arrived, or is not needed any more."""
        if self.written is not None:
            self.written[0].close()
            self.written = None
