"""Starts wardens, one of them before it is known which child it will start.

An interpreter and the warden's imports take 30 ms, a third of the start of a child. So a warden is started as
early as possible, by the command before its own imports; and one whose child has ended starts the next child,
if one is needed then. A warden waits for Spawn, and ends by itself when its lifeline is closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

START = os.path.join(os.path.dirname(os.path.dirname(__file__)), "start.py")


class WaitingWarden(NamedTuple):
    """A warden that waits for Spawn, and our end of its lifeline."""

    process: subprocess.Popen[bytes]
    lifeline: socket.socket


_waiting: list[WaitingWarden] = []


def prepare() -> None:
    """Start a warden for the next take(), unless one is waiting."""
    if not _waiting:
        with contextlib.suppress(OSError):  # take() meets the same error, and raises it
            _waiting.append(_begin())


@contextlib.contextmanager
def offered(one: WaitingWarden) -> Iterator[None]:
    """Have take() return this warden, whose child has ended; it ends if nothing has taken it."""
    _waiting.append(one)
    try:
        yield
    finally:
        if one in _waiting:
            _waiting.remove(one)
            _end(one)


def take() -> WaitingWarden:
    """Return the waiting warden, or a new one. Raises OSError when it cannot be executed."""
    while _waiting:
        one = _waiting.pop()
        if one.process.poll() is None:
            return one
        one.lifeline.close()
    return _begin()


def waiting() -> frozenset[int]:
    """Return the pids of wardens that were not taken yet."""
    return frozenset(one.process.pid for one in _waiting)


def discard() -> None:
    """End the warden that was not taken."""
    while _waiting:
        _end(_waiting.pop())


def _end(one: WaitingWarden) -> None:
    one.process.kill()  # it has no child
    one.process.wait()
    one.lifeline.close()


def has_ended(process: subprocess.Popen[bytes], most_s: float) -> bool:
    """Return whether the process ends within this time. It is left to be reaped.

    Returns at the moment of the end: Popen.wait polls in growing steps.
    """
    try:
        fd = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # a kernel or a Python without pidfds, or no descriptor left
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=most_s)
        return process.returncode is not None
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(most_s * 1000))
    finally:
        os.close(fd)


def _begin() -> WaitingWarden:
    if not os.path.exists(START):
        raise FileNotFoundError(errno.ENOENT, "hkrunner cannot run inside a zip file: unpack it", START)
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            # -S: to look for installed packages takes a quarter of an interpreter's start. psutil_walk.py
            # looks for psutil when it is needed.
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", START, "warden", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return WaitingWarden(process, ours)
