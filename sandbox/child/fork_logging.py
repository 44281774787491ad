"""`logging` records of forked processes are written by the handlers of the child, whole and in one place.

Theory of operation
-------------------
A forked worker has copies of the child's handlers. When two of them write at once, their lines are mixed up,
and a copy of a rotating file handler rotates by itself. So a worker sends its records to the child, whose
handlers write them. The package multiprocessing-logging does this, and its handler class is used here. Its
queue is not used: all writers share one lock, and a worker that is killed while it holds the lock silences
all others for good.

    registration  one SOCK_SEQPACKET pair for the whole process tree. A forked process that logs for the first
                  time makes a pipe, and sends the reading end over the pair, in one indivisible message.
    pipe          one for each process, the only one that writes to it. It carries frames: a length and a
                  pickle. A frame that was cut by the death of its process is dropped, and affects no other.
    reader        one thread of the child. It receives pipes from the registration socket and records from
                  the pipes, and passes them to the handlers that the child had when it forked.

The child's own records go directly to its handlers, which stay in place; only the copies in forked processes
are replaced. Processes that are forked by forked processes use the same registration socket. A record that
cannot be sent (the child is gone, does not read for STALL_S, or the user's code has closed our descriptors)
is written by the copy of the handler, in one write, which the kernel keeps whole up to 4096 bytes. The start
methods spawn and forkserver are not affected: their processes have only the handlers that they set up
themselves.

The first fork that finds handlers sets everything up; before that, the cost is two entries in a list. The
reader does not use the handlers while the child forks, so that no copy of a stream is in the middle of a
write. A forked process takes no lock that a thread of the child could hold. Both sides run the user's own
code, so unpickling gives no process a right that it did not have.

Runs on Python 3.8 and newer; imports only the standard library, and the package if it is installed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from .fork_log_hub import Hub

#: The longest time that the end of a task waits for records that are not written yet.
DRAIN_S = 2.0
#: The longest time that a fork waits for another thread's: that one may need a module that this one imports.
SET_UP_S = 1.0

_hub: Optional[Hub] = None
_home = 0  #: the pid of the child itself
#: Held while the first fork sets everything up: records of a fork by another thread meanwhile were lost.
_setting_up = threading.RLock()
_cannot = False  #: whether the package is missing, or no descriptor was left


def watch() -> None:
    """Processes forked from now on send their records to this one. Called once, by the child."""
    global _home
    _home = os.getpid()
    # Registered first, so called last: after multiprocessing's own exit handler, which may still log.
    atexit.register(_end)
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_fork)


def drain(most_s: float = DRAIN_S) -> None:
    """Records that were logged before this call are written, or `most_s` seconds have passed."""
    if _hub is not None and os.getpid() == _home:
        _hub.drain(most_s)


def _end() -> None:
    """The child exits: processes that outlive it write records with their own copies of the handlers."""
    if _hub is not None and os.getpid() == _home:
        _hub.drain(DRAIN_S, end=True)


def _before_fork() -> None:
    # An exception here would be printed in the middle of the user's output.
    with contextlib.suppress(Exception):
        _set_up()


def _set_up() -> None:
    global _hub, _cannot
    if os.getpid() != _home or "logging" not in sys.modules:
        return
    # Imported by the first fork that needs it: the import takes 0.5 ms of the child's start.
    from .fork_log_hub import Hub, loggers_with_handlers

    loggers = loggers_with_handlers()
    if not _setting_up.acquire(timeout=SET_UP_S):
        return
    try:
        if _hub is None:
            if not loggers or _cannot:
                return
            _cannot = True
            _hub = Hub()
            _cannot = False
            # Called before logging's own exit handler, which closes the handlers.
            atexit.register(drain)
        _hub.know(loggers)
    finally:
        _setting_up.release()
    _hub.pause()


def _after_fork() -> None:
    if _hub is not None:
        _hub.resume()


def _in_fork() -> None:
    with contextlib.suppress(Exception):  # as in _before_fork()
        if _hub is not None:
            _hub.enter_fork()
