"""Frames between our own processes: encode, and read back incrementally. No I/O of its own.

A frame is a 16-byte header and a body. The header: version (1 byte), kind (1, see messages.py), flags (2),
task (4), length (8), all big-endian. `task` is the supervisor's running number of the task, 0 for none:
whatever a child produces is tagged with it and dropped once the supervisor has moved on.

A body of more than INLINE_MAX bytes does not travel in the stream. It is in a memfd that is sent with the
header (SCM_RIGHTS); then the BLOB flag is set, `length` is the size of the memfd's content and no body bytes
follow. So a reader never holds more than INLINE_LIMIT bytes for a frame, whatever the other side announces.

Bodies are JSON or bytes of HKube's own messages: nothing that is received can be executed.

This module also runs inside the child, on Python 3.8 and newer.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import struct
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

VERSION = 1
HEADER = struct.Struct("!BBHIQ")
FLAG_BLOB = 1
#: A body up to this size travels in the stream; above it, in a memfd. Measured: below 256 KiB the
#: stream costs less than creating and mapping a memfd.
INLINE_MAX = 256 * 1024
#: The largest body that a reader accepts in the stream: no frame of hkrunner has a larger one.
INLINE_LIMIT = 1024 * 1024
#: The largest body that a reader accepts in a memfd: more than any machine has. The announced size is
#: compared with that of the memfd before it is read (blob_problem).
BLOB_LIMIT = 2**44

Buffer = Union[bytes, bytearray, memoryview]

#: Exit status of a child that finds its channel closed.
EXIT_CHANNEL_LOST = 251
#: Has the child write the stacks of all its threads. Few programs use a real-time signal; its handler is
#: in C, so it works while the interpreter is held.
STACK_SIGNAL = signal.SIGRTMAX - 1
#: The same for a process that is to be ended: the signal then ends it, and no code runs in between.
LAST_STACK_SIGNAL = signal.SIGRTMAX - 2


class ChannelError(Exception):
    """The bytes are no frames of hkrunner; the text says what was found, and where in the stream."""


class Frame(NamedTuple):
    """One unit on the channel. `fd` is the memfd that holds the body of a large frame (then `body` is
    empty); whoever takes the frame closes it."""

    kind: int
    task: int
    body: bytes = b""
    fd: Optional[int] = None
    size: int = 0


def header(kind: int, task: int, length: int, *, blob: bool = False) -> bytes:
    """Return the 16 bytes that announce a frame."""
    return HEADER.pack(VERSION, kind, FLAG_BLOB if blob else 0, task, length)


def encode(kind: int, task: int, body: Buffer = b"") -> bytes:
    """Return a frame with its body in the stream. The body has at most INLINE_MAX bytes."""
    assert len(body) <= INLINE_MAX, "a larger body goes into a memfd"
    return b"".join((HEADER.pack(VERSION, kind, 0, task, len(body)), body))


def read_buffer(size: int) -> mmap.mmap:
    """Return a buffer to read into. Unlike that of a bytearray, each page of it takes memory once it is used.

    Raises MemoryError.
    """
    try:
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no buffer of {size:,} bytes: {error.strerror}") from None


def write_all(fd: int, data: Buffer, at: int = 0) -> None:
    """Write all of it; the kernel takes at most 2 GiB at once, and less on a full disk."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


class FrameReader:
    """Turns bytes and descriptors, cut anywhere, into frames. After an error it must not be used again."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: List[int] = []
        self._offset = 0

    def feed(self, data: Buffer, fds: Sequence[int] = ()) -> List[Frame]:
        """Return the frames that are now complete, in order.

        Raises ChannelError for bytes that cannot be a frame; then all descriptors held are closed.
        """
        if fds:
            self._fds.extend(fds)
        buffer = self._buffer
        if buffer:  # hardly ever: mostly whole frames come, which are read where they are
            buffer += data
            data = buffer
        size, position, total = HEADER.size, 0, len(data)
        if total >= size and data is not buffer and not self._fds:  # mostly it is one whole frame
            version, kind, flags, task, length = HEADER.unpack_from(data)
            if length == total - size and length <= INLINE_LIMIT and version == VERSION and not flags:
                self._offset += total
                return [Frame(kind, task, bytes(data[size:]), None, length)]
        frames: List[Frame] = []
        try:
            while total - position >= size:
                version, kind, flags, task, length = HEADER.unpack_from(data, position)
                if version != VERSION or flags not in (0, FLAG_BLOB):
                    found = bytes(data[position : position + size]).hex()
                    raise ChannelError(f"bad frame at byte {self._offset + position}: {found}")
                if length > (BLOB_LIMIT if flags else INLINE_LIMIT):
                    raise ChannelError(_too_large(length, BLOB_LIMIT if flags else INLINE_LIMIT))
                begin = position + size
                if flags:
                    if not self._fds:
                        raise ChannelError(f"frame at byte {self._offset + position} came without its memory")
                    frames.append(Frame(kind, task, b"", self._fds.pop(0), length))
                    position = begin
                    continue
                end = begin + length
                if total < end:
                    break
                frames.append(Frame(kind, task, bytes(data[begin:end]), None, length))
                position = end
            # One may belong to an incomplete header. Any more would use up the descriptors of this process.
            if len(self._fds) > 1:
                raise ChannelError(f"descriptors without a frame at byte {self._offset + position}")
        except ChannelError:
            for frame in frames:
                if frame.fd is not None:
                    os.close(frame.fd)
            self.close()
            raise
        self._offset += position
        if data is buffer:
            del buffer[:position]
        elif position < total:
            buffer += data[position:]
        return frames

    @property
    def partial(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)

    @property
    def missing(self) -> int:
        """Bytes until the frame that is incomplete will be whole; 0: none is, or its size is unknown."""
        if len(self._buffer) < HEADER.size:
            return 0
        *_, length = HEADER.unpack_from(self._buffer)
        return int(HEADER.size + length - len(self._buffer))

    def close(self) -> None:
        """Close the descriptors of frames that never became complete, and forget the bytes."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._buffer.clear()


def _too_large(length: int, limit: int) -> str:
    return f"frame of {_decimal(length)}, limit {_decimal(limit)}"


def _decimal(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} EB"


# A memfd can be written again (it is kept from one large message to the next), but never be made shorter: a
# reader that maps it would be killed by SIGBUS (measured), and one that reads it would get only a part.
_F_ADD_SEALS = 1033
_F_GET_SEALS = 1034
_F_SEAL_SEAL = 1
_F_SEAL_SHRINK = 2


def seal(fd: int) -> None:
    """Seal this memfd: no process can shorten it, or add further seals."""
    fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_SEAL)


def blob_problem(fd: int, size: int) -> Optional[str]:
    """Return why this descriptor must not be trusted to hold `size` bytes, None if it may be."""
    try:
        seals = fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:
        return "not a memory file"
    if not seals & _F_SEAL_SHRINK:
        return "not sealed against truncation"
    found = os.fstat(fd).st_size
    if found < size:
        return f"{found} bytes where {size} were announced"
    return None


def fds_of(ancillary: Sequence[Tuple[int, int, bytes]]) -> List[int]:
    """Return the descriptors in the ancillary data of recvmsg()."""
    fds: List[int] = []
    for level, kind, data in ancillary:
        if level == 1 and kind == 1:  # SOL_SOCKET, SCM_RIGHTS
            count = len(data) // 4
            fds.extend(struct.unpack(f"={count}i", data[: count * 4]))
    return fds
