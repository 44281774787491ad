"""Which task a worker of hkrunner.Pool has begun, and which ones it must not begin: numbers in a file.

The user's process sends a worker several short tasks at once. If one of them turns out to be long, those
behind it are recalled and given to other workers; if the worker dies, those that it had not begun lose
nothing. The worker may be in C code that answers no message, so both sides use a memory file:

    worker                              user's process
    1. write "begun N"                  1. write "recalled FIRST to LAST"
    2. read the recalled numbers        2. read the begun number
    3. begin N unless it is recalled    3. recalled are those of FIRST to LAST that are above it

Each writes before it reads, so at least one of them sees what the other wrote. If both do, the worker does
not begin N, and reports that (Recalled).

The supervising process reads here when a task began: so it enforces time limits although the user's process
is in C code that holds the interpreter lock. The worker can write anything here, so neither process relies on
it alone (see runner/app/pool_deadlines.py).

The file is that of faulthandler, which writes from its beginning; the marks are far behind that. Runs in the
child, too, on Python 3.8 and newer.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Tuple

#: Place of the marks in the file: no stack is as long.
MARKS_AT = 1024 * 1024
_BEGUN = struct.Struct("=Q")
#: When the task began, on the monotonic clock, which all processes share; 0: it has ended.
_TIME = struct.Struct("=d")
_BEGUN_AND_TIME = struct.Struct("=Qd")
#: Eight bytes that are written and read in one call. FIRST above LAST: nothing is recalled.
_RECALLED = struct.Struct("=II")
_RECALLED_AT = MARKS_AT + _BEGUN_AND_TIME.size


class TaskMarks:
    """The marks of one worker. Tasks are numbered from 1 in the order in which they are sent."""

    def __init__(self, fd: int) -> None:
        """`fd`: the file; it stays the caller's."""
        self._fd = fd

    def begin(self, task: int) -> bool:
        """Note that this task begins; return False if it was recalled. The worker's side."""
        os.pwrite(self._fd, _BEGUN_AND_TIME.pack(task, time.monotonic()), MARKS_AT)
        recalled = os.pread(self._fd, _RECALLED.size, _RECALLED_AT)
        if len(recalled) < _RECALLED.size:
            return True  # nothing was ever recalled
        first, last = _RECALLED.unpack(recalled)
        if first <= task <= last:
            self.end()
            return False
        return True

    def end(self) -> None:
        """Note that the task has ended. The worker's side."""
        os.pwrite(self._fd, _TIME.pack(0.0), MARKS_AT + _BEGUN.size)

    def running(self) -> Tuple[int, float]:
        """Return the number of the task that runs, and when it began; 0 for what is missing.

        While the worker writes, the numbers may not belong together. The supervising process's side.
        """
        found = os.pread(self._fd, _BEGUN_AND_TIME.size, MARKS_AT)
        if len(found) < _BEGUN_AND_TIME.size:
            return 0, 0.0
        task, began = _BEGUN_AND_TIME.unpack(found)
        return task, began

    def begun(self) -> int:
        """Return the number of the task that has begun last, 0 for none."""
        found = os.pread(self._fd, _BEGUN.size, MARKS_AT)
        number: int = _BEGUN.unpack(found)[0] if len(found) == _BEGUN.size else 0
        return number

    def recall(self, first: int, last: int) -> int:
        """Recall these tasks; return the number of the task that has begun last.

        Those above it will not begin. The worker reports each of the others that it does not begin.
        """
        os.pwrite(self._fd, _RECALLED.pack(first, last), _RECALLED_AT)
        return self.begun()
