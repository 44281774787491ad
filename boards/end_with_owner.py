"""Ends a process of ours together with the one that started it, however that one ends."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable

_POLL_S = 1.0


def read_line(fd: int) -> bytes:
    """Read one line byte by byte, so that nothing behind it is consumed; EOF ends this process."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            sys.exit("the process that started this one has ended")
        line += byte
    return line


def watch_owner(on_end: Callable[[], object]) -> None:
    """Have a thread call on_end once the process that started this one has ended.

    The thread notices it by EOF on stdin, a pipe that the starter holds, or by a change of our parent, since
    a fork of the starter may hold the pipe too. PR_SET_PDEATHSIG cannot be used: it fires as soon as the
    thread that started us ends.
    """
    parent = os.getppid()

    def watch() -> None:
        while True:
            readable, _, _ = select.select([0], [], [], _POLL_S)
            if (readable and not os.read(0, 4096)) or os.getppid() != parent:
                on_end()
                return

    threading.Thread(target=watch, name="owner", daemon=True).start()
