"""Takes a file that an isolated child wrote for its task's record; it may be anything, and stay open."""

from __future__ import annotations

import os
import stat

from .files import remove_quietly, replacement

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def take_file(source: str, path: str, *, most_bytes: int) -> bool:
    """Copy the child's file to the path and remove it; return False if it is not what the child writes.

    A link, a pipe, or a file with another name or more bytes than the value can have is not taken. It is not
    moved: through a descriptor that it has kept, even one for reading, the algorithm could then change the
    record (/proc/self/fd opens it again, and Landlock goes by the mount of the descriptor). Raises OSError,
    FileNotFoundError if there is none.
    """
    try:
        return _copy_if_written_by_child(source, path, most_bytes)
    finally:
        remove_quietly(source)  # else the next task could be given it


def _copy_if_written_by_child(source: str, path: str, most_bytes: int) -> bool:
    try:
        fd = os.open(source, _FLAGS)
    except FileNotFoundError:
        raise
    except OSError:  # a link, a socket
        return False
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_size > most_bytes:
            return False
        size = facts.st_size
        with replacement(path) as copy:
            while size > 0 and (sent := os.sendfile(copy, fd, None, size)):
                size -= sent
        return True
    finally:
        os.close(fd)
