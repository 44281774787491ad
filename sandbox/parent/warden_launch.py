"""Wardens on their way: one may be begun before anybody knows what it will have to start.

An interpreter and the warden's imports take 30 ms, a third of what a new child needs. So one is begun as
early as can be: by the command before its own imports, and at a kill after which a new child will be
needed. It waits for SPAWN, and ends by itself when its lifeline does.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from typing import NamedTuple

START = os.path.join(os.path.dirname(os.path.dirname(__file__)), "start.py")


class Launched(NamedTuple):
    """A warden that waits for SPAWN, and our end of its lifeline."""

    process: subprocess.Popen[bytes]
    lifeline: socket.socket


_waiting: list[Launched] = []


def prepare() -> None:
    """Begin a warden for the next take(), if none waits for it."""
    if not _waiting:
        with contextlib.suppress(OSError):  # take() meets the same trouble, and tells it
            _waiting.append(_begin())


def take() -> Launched:
    """Return the warden that waits, or a new one. Raises OSError when it cannot be executed."""
    while _waiting:
        one = _waiting.pop()
        if one.process.poll() is None:
            return one
        one.lifeline.close()
    return _begin()


def waiting() -> frozenset[int]:
    """Pids of wardens that nobody has taken yet."""
    return frozenset(one.process.pid for one in _waiting)


def discard() -> None:
    """No warden waits any more."""
    while _waiting:
        one = _waiting.pop()
        one.process.kill()  # it has nobody below it yet
        one.process.wait()
        one.lifeline.close()


def has_ended(process: subprocess.Popen[bytes], most_s: float) -> bool:
    """Wait until the process ends, at most so long; it is left to be reaped.

    At once: Popen.wait sleeps in growing steps.
    """
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:  # a kernel without it, or none to be had
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=most_s)
        return process.returncode is not None
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(most_s * 1000))
    finally:
        os.close(fd)


def _begin() -> Launched:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", START, "warden", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return Launched(process, ours)
