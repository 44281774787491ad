"""`logging` records of the processes that an algorithm forks leave through the child's own handlers, whole.

Theory of operation
-------------------
A forked worker has copies of the child's handlers. Two of them writing at once tear each other's lines, and
a copy of a rotating file rotates alone. So a worker sends its records to the child, whose handlers see them:
what the package multiprocessing-logging is for. Its handler is used here, its queue is not: that has one
lock for all writers, and a worker killed while it holds the lock silences everybody for good.

    door    one SOCK_SEQPACKET pair for the whole tree. A forked process that logs for the first time makes
            a pipe and sends the reading end through the door; the message is there whole or not at all.
    pipe    one per process: nobody else writes to it. Frames of a length and a pickle. What a process that
            is killed leaves half written is dropped at the end of its pipe, and concerns nobody else.
    reader  one thread of the child: takes pipes from the door and records from pipes, and gives them to
            the very handlers that the child had when it forked.

The child's own records go straight to its handlers, which stay in their places: only the copies in forked
processes are stood in for. Processes forked by those use the same door. Where a record cannot be sent (the
child is gone, does not take it for STALL_S, the user's code has closed our descriptors) it leaves through
the copy of the handler: in one write, which the kernel keeps whole up to 4096 bytes. So it is also with the
start methods spawn and forkserver, whose processes have no handlers but those they set up themselves.

Everything is set up by the first fork that finds handlers; before that it costs two entries in a list. The
reader is kept from the handlers while the child forks, so that no copy of a stream is in the middle of a
write; a forked process takes no lock that a thread of the child could hold. Both sides are the user's own
code, so pickle opens nothing to anybody.

Runs on Python 3.8 and newer; imports the standard library only, the package where it is installed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from .fork_log_hub import Hub

#: The end of a task waits this long, at most, for records that are under way.
DRAIN_S = 2.0

_hub: Optional[Hub] = None
_home = 0  #: the pid of the child itself
_cannot = False  #: the package is not installed, or there were no descriptors left


def watch() -> None:
    """Have the records of processes forked from now on come to this one. Called once, by the child."""
    global _home
    _home = os.getpid()
    # Registered first, called last: what multiprocessing's own end of the program still brings.
    atexit.register(_end)
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_fork)


def drain(most_s: float = DRAIN_S) -> None:
    """Records written before this call have left through their handlers, or `most_s` have gone."""
    if _hub is not None and os.getpid() == _home:
        _hub.drain(most_s)


def _end() -> None:
    """The child ends: what processes that live longer log from now on leaves through their own copies."""
    if _hub is not None and os.getpid() == _home:
        _hub.drain(DRAIN_S, end=True)


def _before_fork() -> None:
    # An exception here would be printed in the middle of the user's output.
    with contextlib.suppress(Exception):
        _set_up()


def _set_up() -> None:
    global _hub, _cannot
    if os.getpid() != _home or "logging" not in sys.modules or _cannot:
        return
    # Not before a fork needs it: it costs the child's start 0.5 ms.
    from .fork_log_hub import Hub, loggers_with_handlers

    loggers = loggers_with_handlers()
    if _hub is None:
        if not loggers:
            return
        _cannot = True
        _hub = Hub()
        _cannot = False
        # Before logging's own end, which closes the handlers.
        atexit.register(drain)
    _hub.know(loggers)
    _hub.pause()


def _after_fork() -> None:
    if _hub is not None:
        _hub.resume()


def _in_fork() -> None:
    with contextlib.suppress(Exception):
        if _hub is not None:
            _hub.enter_fork()
