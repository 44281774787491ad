"""Bytes that are in a file, and are copied from there by the kernel, without passing through this process."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence

from ...sandbox.codec.codec import Buffer
from ...sandbox.shared.channel import read_buffer

#: Bytes that are copied between two reports of progress.
CHUNK = 4 * 1024 * 1024
#: Bytes up to this many are read at once, and written together with others; more are moved by the kernel.
SMALL = 64 * 1024

#: A copy from here on has large pages. To map 10 MB in pages of 4 KiB takes longer than to copy them.
LARGE = 1024 * 1024


def copied(pieces: Sequence[Buffer]) -> Buffer:
    """Return these bytes in memory of their own. Raises MemoryError."""
    size = sum(len(one) for one in pieces)
    if size < LARGE:
        return b"".join(pieces)
    # Not a memfd: Python's mmap keeps a descriptor of its own, and a cache has many values.
    memory, at = read_buffer(size), 0
    with contextlib.suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    for one in pieces:
        memory[at : at + len(one)] = one
        at += len(one)
    return memoryview(memory).toreadonly()


class FileRegion:
    """A part of an open file, which its owner keeps open."""

    __slots__ = ("_begin", "_fd", "_size")

    def __init__(self, fd: int, begin: int, size: int) -> None:
        self._fd = fd
        self._begin = begin
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, wanted: slice) -> FileRegion:
        begin, end, step = wanted.indices(self._size)
        assert step == 1, "a region is contiguous"
        return FileRegion(self._fd, self._begin + begin, max(0, end - begin))

    def __bytes__(self) -> bytes:
        """Read the region. Raises OSError and MemoryError."""
        return bytes(self.read(lambda: None))

    def read(self, progress: Callable[[], None]) -> Buffer:
        """Read the region. Raises MemoryError, and OSError, also when the file has become shorter."""
        # A bytearray of this size would be filled with zeros first, which holds up all threads.
        data = memoryview(read_buffer(max(1, self._size)))[: self._size]
        self.read_into(data, progress)
        return data

    def read_into(self, view: memoryview, progress: Callable[[], None]) -> None:
        """Read the region into memory of its size; otherwise as read()."""
        at = 0
        while at < self._size:
            count = os.preadv(self._fd, [view[at : at + CHUNK]], self._begin + at)
            if not count:
                raise OSError(f"it became shorter while it was read: {at:,} of {self._size:,} bytes")
            at += count
            progress()

    def copy_to(self, fd: int, progress: Callable[[], None]) -> None:
        """Append the region to the file. Raises OSError, also when this file has become shorter."""
        at = 0
        while at < self._size:
            count = os.sendfile(fd, self._fd, self._begin + at, min(CHUNK, self._size - at))
            if not count:
                raise OSError(f"it became shorter while it was read: {at:,} of {self._size:,} bytes")
            at += count
            progress()


Bytes = Buffer | FileRegion


def append(fd: int, data: Bytes, progress: Callable[[], None]) -> None:
    """Append these bytes to the file. Raises OSError."""
    if isinstance(data, FileRegion):
        data.copy_to(fd, progress)
        return
    view, at = memoryview(data), 0
    while at < len(view):
        at += os.write(fd, view[at : at + CHUNK])
        progress()


def joined(pieces: Sequence[Bytes]) -> Iterator[Bytes]:
    """Yield the same bytes in fewer pieces."""
    small: list[Buffer] = []
    for one in pieces:
        if isinstance(one, FileRegion) or len(one) > SMALL:
            yield b"".join(small)
            small.clear()
            yield one
        else:
            small.append(one)
    yield b"".join(small)
