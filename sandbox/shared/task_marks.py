"""Which task a worker of hkrunner.Pool has begun, and which ones it must not begin: two numbers in a file.

The user's process sends a worker several short tasks at once. If one of them turns out to be long, those
behind it are recalled and given to other workers; if the worker dies, those that it had not begun lose
nothing. The worker may be in C code that answers no message, so both sides use a memory file:

    worker                              user's process
    1. write "begun N"                  1. write "recalled FIRST to LAST"
    2. read the recalled numbers        2. read the begun number
    3. begin N unless it is recalled    3. recalled are those of FIRST to LAST that are above it

Each writes before it reads, so at least one of them sees what the other wrote. If both do, the worker does
not begin N, and says so (Recalled).

The file is that of faulthandler, which writes from its beginning; the marks are far behind that. Runs in the
child, too, on Python 3.8 and newer.
"""

from __future__ import annotations

import os
import struct

#: Place of the marks in the file: nobody reads a stack of this length.
MARKS_AT = 1024 * 1024
_BEGUN = struct.Struct("=Q")
#: Eight bytes that are written and read at once. FIRST above LAST: nothing is recalled.
_RECALLED = struct.Struct("=II")


class TaskMarks:
    """The marks of one worker. Tasks are numbered from 1 in the order in which they are sent."""

    def __init__(self, fd: int) -> None:
        """`fd`: the file; it stays the caller's."""
        self._fd = fd

    def begin(self, task: int) -> bool:
        """Note that this task begins; return False if it was recalled. The worker's side."""
        os.pwrite(self._fd, _BEGUN.pack(task), MARKS_AT)
        recalled = os.pread(self._fd, _RECALLED.size, MARKS_AT + _BEGUN.size)
        if len(recalled) < _RECALLED.size:
            return True  # nothing was ever recalled
        first, last = _RECALLED.unpack(recalled)
        return not first <= task <= last

    def begun(self) -> int:
        """Return the number of the task that has begun last, 0 for none."""
        found = os.pread(self._fd, _BEGUN.size, MARKS_AT)
        number: int = _BEGUN.unpack(found)[0] if len(found) == _BEGUN.size else 0
        return number

    def recall(self, first: int, last: int) -> int:
        """Recall these tasks; return the number of the task that has begun last.

        Those above it will not begin. The worker reports each of the others that it does not begin.
        """
        os.pwrite(self._fd, _RECALLED.pack(first, last), MARKS_AT + _BEGUN.size)
        return self.begun()
