"""Memory that a child and the socket process of its stream share, for large payloads.

A socket between two processes holds 200 KB, so both would wait for each other several times for one payload
of 1 MB. Here it is written at once, and a frame of the data socket says where. One process writes a ring, and
the other one reads it, in the order of the frames. Neither waits for room: what does not fit travels in its
frame, as small payloads do.

Runs inside the child as well, on Python 3.8 and newer.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Optional, Union

#: Size of each ring. The pages that were used count as memory of the child.
RING_BYTES = 8 * 1024 * 1024
#: Sizes of the smallest and the largest payload that is put into a ring.
SMALLEST, LARGEST = 64 * 1024, RING_BYTES // 2
#: The place of a payload, in a frame: where it ends, counted from the first byte ever written; its length.
PLACE = struct.Struct("!QQ")
#: The first page holds, for each ring, up to where it was read.
_COUNTS_BYTES = 4096
_TO_SOCKETS, _TO_CHILD = 0, 1

Buffer = Union[bytes, bytearray, memoryview]


class SharedRings:
    """Both rings, as one of the two processes sees them."""

    def __init__(self, fd: int, *, is_child: bool) -> None:
        """Map the memory; the descriptor stays the caller's. Raises OSError and ValueError."""
        self._memory = memoryview(mmap.mmap(fd, _COUNTS_BYTES + 2 * RING_BYTES))
        self._read = self._memory[:_COUNTS_BYTES].cast("Q")
        self._out, self._in = (_TO_SOCKETS, _TO_CHILD) if is_child else (_TO_CHILD, _TO_SOCKETS)
        self._written = 0

    def put(self, *pieces: Buffer) -> Optional[bytes]:
        """Write a payload; return its place, None if it does not fit, or is too small or too large."""
        size = sum(one.nbytes if isinstance(one, memoryview) else len(one) for one in pieces)
        if not SMALLEST <= size <= LARGEST:
            return None
        begin = self._written
        left = RING_BYTES - begin % RING_BYTES
        if left < size:
            begin += left  # a payload is in one piece
        if begin + size - self._read[self._out] > RING_BYTES:
            return None
        at = self._begin(self._out) + begin % RING_BYTES
        for one in pieces:
            view = memoryview(one).cast("B")
            self._memory[at : at + len(view)] = view
            at += len(view)
        self._written = begin + size
        return PLACE.pack(self._written, size)

    def at(self, place: Buffer) -> memoryview:
        """Return the payload at this place, which stays until free(). Raises ValueError."""
        end, size = PLACE.unpack(place)
        begin = end - size
        if size > LARGEST or begin < 0 or begin % RING_BYTES + size > RING_BYTES:
            raise ValueError("no place in a ring")
        at = self._begin(self._in) + begin % RING_BYTES
        return self._memory[at : at + size]

    def free(self, place: Buffer) -> None:
        """Let the other process write where this payload is, and those before it."""
        self._read[self._in] = PLACE.unpack(place)[0]

    def take(self, place: Buffer) -> bytes:
        """Return a copy of the payload at this place, and free the place. Raises ValueError."""
        payload = bytes(self.at(place))
        self.free(place)
        return payload

    @staticmethod
    def _begin(ring: int) -> int:
        return _COUNTS_BYTES + ring * RING_BYTES


def of_descriptor(fd: Optional[int]) -> Optional[SharedRings]:
    """Return the child's view of the rings, and close the descriptor; None where they cannot be mapped."""
    if fd is None:
        return None
    try:
        return SharedRings(fd, is_child=True)
    except (OSError, ValueError):  # a limit of the address space: large payloads travel by the socket, too
        return None
    finally:
        os.close(fd)


def create() -> int:
    """Return the descriptor of new memory for two rings, whose size no process can change. Raises OSError."""
    import fcntl  # not in the child

    fd = os.memfd_create("hkrunner-rings", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, _COUNTS_BYTES + 2 * RING_BYTES)
        # A child that made it shorter would end the socket process with SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd
