"""Frames of the data socket between a child and the process that holds its task's ZeroMQ sockets.

Only messages of a stream travel here, so that neither the parent nor its channel to the child ever waits for
one. A frame is a head and a body:

    SEND      child -> sockets   a message for the next nodes
    SHARES    child -> sockets   the memory that came with OPENED is mapped: see shared_rings.py
    SEND_PLACE, MESSAGE_PLACE    as SEND and MESSAGE, with the place of the payload in that memory
    DONE      child -> sockets   the listener has returned; `number` is that of its MESSAGE
    LISTEN    child -> sockets   fetch messages from here on
    QUIESCE   child -> sockets   fetch nothing more, and say QUIESCED once the last message is DONE
    ABANDON   child -> sockets   fetch nothing more, and drop what the listener has not begun
    DRAIN     child -> sockets   say DRAINED once every message was taken by the next nodes
    OPENED    sockets -> child   the first frame: the encoding of messages; `number`: the most bytes that a
                                 SEND may have; a descriptor may come with it
    MESSAGE   sockets -> child   a message of a parent node
    SOURCES   sockets -> child   `number` connections to parent nodes exist
    LEFT      sockets -> child   nothing more comes of the connection `number`
    QUIESCED, DRAINED            see above
    LOST      made by the reader of a large frame that it had no memory for; the body says its length

Runs inside the child as well, on Python 3.8 and newer.
"""

from __future__ import annotations

import _socket
import struct
from typing import List, NamedTuple, Optional, Tuple, Union

from .channel import read_buffer

HEAD = struct.Struct("!QBQ")  #: length of the body, kind, number
SEND, DONE, LISTEN, QUIESCE, DRAIN, MESSAGE, SOURCES, QUIESCED, DRAINED, OPENED, ABANDON, LEFT = range(1, 13)
SHARES, SEND_PLACE, MESSAGE_PLACE, LOST = range(13, 17)
LENGTH = struct.Struct("!Q")  #: the body of LOST
#: Length of the names of the next nodes, and of the encoded rest of the flow.
SEND_HEAD = struct.Struct("!HI")
#: Number of the connection, length of the name of its node, and of the encoded rest of the flow.
MESSAGE_HEAD = struct.Struct("!IHI")
DURATION = struct.Struct("!d")  #: of a listener's call, in ms
#: Length of the header that HKube puts before a payload.
PAYLOAD_HEADER = 8
READ_BYTES = 256 * 1024
#: A frame that lacks more than this much is read into memory of its own.
LARGE_BYTES = 64 * 1024
#: Largest frame: the message of 4 GiB that ZeroMQ is allowed to take, and what is said of it.
FRAME_MAX = (1 << 32) + (1 << 20)

_DESCRIPTOR = struct.Struct("=i")

Buffer = Union[bytes, bytearray, memoryview]


class StreamFrame(NamedTuple):
    """A frame; its body stays valid."""

    kind: int
    number: int
    body: Buffer


class StreamReader:
    """Reads frames from one socket, which may block or not."""

    def __init__(self, sock: _socket.socket) -> None:
        self._socket = sock
        #: Bytes of a frame. A larger one is not believed: its memory would be taken before it has come.
        self.most_bytes = FRAME_MAX
        self._scratch = read_buffer(READ_BYTES)
        self._rest = b""
        self._unparsed = 0  #: bytes that were read, while there is no memory for their frames
        self._large: Optional[Tuple[int, int, bytearray]] = None
        self._lost: Optional[Tuple[int, int]] = None  #: a frame without memory: its number and its length
        self._filled = 0  #: bytes of either that were read

    @property
    def is_within_large(self) -> bool:
        """Whether a part of a large frame was read."""
        return self._large is not None or self._lost is not None

    def read_with_fd(self) -> Tuple[List[StreamFrame], Optional[int]]:
        """Read the first bytes of all, as read() does; return the descriptor, too, that came with them."""
        count, ancillary, _, _ = self._socket.recvmsg_into(
            [self._scratch], _socket.CMSG_LEN(_DESCRIPTOR.size), _socket.MSG_CMSG_CLOEXEC
        )
        fd = None
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(data) == _DESCRIPTOR.size:
                (fd,) = _DESCRIPTOR.unpack(data)
        return self._frames_of(count), fd

    def read(self) -> List[StreamFrame]:
        """Read once; return what is complete, perhaps nothing.

        Raises BlockingIOError when nothing is there, EOFError at the end, ValueError for a frame that is
        too large, and MemoryError: no byte is lost, the next call goes on.
        """
        if self._large is not None:
            return self._read_large(self._large)
        if self._lost is not None:
            return self._skip(*self._lost)
        return self._frames_of(self._unparsed or self._socket.recv_into(self._scratch))

    def _frames_of(self, count: int) -> List[StreamFrame]:
        if not count:
            raise EOFError
        self._unparsed, filled = count, 0
        large: Optional[Tuple[int, int, bytearray]] = None
        lost: Optional[Tuple[int, int]] = None
        data = self._rest + self._scratch[:count] if self._rest else bytes(self._scratch[:count])
        frames: List[StreamFrame] = []
        position, end = 0, len(data)
        while end - position >= HEAD.size:
            length, kind, number = HEAD.unpack_from(data, position)
            begin = position + HEAD.size
            if end - begin < length:
                if length > self.most_bytes:
                    raise ValueError(f"it announces {length:,} bytes; at most {self.most_bytes:,} are read")
                if length - (end - begin) > LARGE_BYTES:
                    position, filled = end, end - begin
                    try:
                        large = (kind, number, bytearray(length))
                    except MemoryError:  # it may be larger than all that --mem allows
                        lost = (number, length)
                    else:
                        large[2][:filled] = data[begin:]
                break
            frames.append(StreamFrame(kind, number, data[begin : begin + length]))
            position = begin + length
        self._rest = data[position:]
        self._large, self._lost, self._filled, self._unparsed = large, lost, filled, 0
        return frames

    def _read_large(self, large: Tuple[int, int, bytearray]) -> List[StreamFrame]:
        kind, number, body = large
        count = self._socket.recv_into(memoryview(body)[self._filled :])
        if not count:
            raise EOFError
        self._filled += count
        if self._filled < len(body):
            return []
        self._large = None
        return [StreamFrame(kind, number, body)]

    def _skip(self, number: int, length: int) -> List[StreamFrame]:
        count = self._socket.recv_into(self._scratch, min(READ_BYTES, length - self._filled))
        if not count:
            raise EOFError
        self._filled += count
        if self._filled < length:
            return []
        self._lost = None
        return [StreamFrame(LOST, number, LENGTH.pack(length))]


def frame(kind: int, number: int = 0, body: bytes = b"") -> bytes:
    """Return a frame of a short body."""
    return HEAD.pack(len(body), kind, number) + body
