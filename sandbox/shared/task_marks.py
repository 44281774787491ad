"""Which task a worker of hkrunner.Pool has begun, and which ones it must not begin: numbers in a file.

The user's process sends a worker several short tasks at once. If one of them turns out to be long, those
behind it are recalled and given to other workers; if the worker dies, those that it had not begun lose
nothing. The worker may be in C code that answers no message, so both sides use a memory file:

    worker                              user's process
    1. write "begun N"                  1. write "recalled FIRST to LAST"
    2. read the recalled numbers        2. read the begun number
    3. begin N unless it is recalled    3. recalled are those of FIRST to LAST that are above it

Each writes before it reads, so at least one of them sees what the other wrote. If both do, the worker does
not begin N, and says so (Recalled).

The supervising process reads there when a task began, and its time limit. So the limit holds although the
user's process is in C code that keeps the interpreter's lock.

The file is that of faulthandler, which writes from its beginning; the marks are far behind that. Runs in the
child, too, on Python 3.8 and newer.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Dict, Tuple

#: Place of the marks in the file: nobody reads a stack of this length.
MARKS_AT = 1024 * 1024
_BEGUN = struct.Struct("=Q")
#: When the task began, on the monotonic clock, which all processes share; 0: it has ended.
_TIME = struct.Struct("=d")
_BEGUN_AND_TIME = struct.Struct("=Qd")
#: Eight bytes that are written and read at once. FIRST above LAST: nothing is recalled.
_RECALLED = struct.Struct("=II")
_RECALLED_AT = MARKS_AT + _BEGUN_AND_TIME.size
#: Places for time limits, in seconds. That of a task is its number modulo this; fewer tasks wait in a worker.
_TIMEOUTS = 256
_TIMEOUTS_AT = _RECALLED_AT + _RECALLED.size


class TaskMarks:
    """The marks of one worker. Tasks are numbered from 1 in the order in which they are sent."""

    def __init__(self, fd: int) -> None:
        """`fd`: the file; it stays the caller's."""
        self._fd = fd
        self._timeouts: Dict[int, float] = {}  #: those in the file, by their place

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

    def set_timeout(self, task: int, seconds: float) -> None:
        """Note the time limit of a task that will be sent; 0: none. The side of the user's process."""
        at = task % _TIMEOUTS
        if self._timeouts.get(at, 0.0) != seconds:
            self._timeouts[at] = seconds
            os.pwrite(self._fd, _TIME.pack(seconds), _TIMEOUTS_AT + at * _TIME.size)

    def running(self) -> Tuple[int, float, float]:
        """Return the number of the task that runs, when it began, and its time limit; 0 for what is missing.

        While the worker writes, the numbers may not belong together. The supervising process's side.
        """
        found = os.pread(self._fd, _BEGUN_AND_TIME.size, MARKS_AT)
        if len(found) < _BEGUN_AND_TIME.size:
            return 0, 0.0, 0.0
        task, began = _BEGUN_AND_TIME.unpack(found)
        limit = os.pread(self._fd, _TIME.size, _TIMEOUTS_AT + task % _TIMEOUTS * _TIME.size)
        return task, began, _TIME.unpack(limit)[0] if len(limit) == _TIME.size else 0.0

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
