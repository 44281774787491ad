"""For a process of ours that ends with the one that started it, however that ends."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable

_LOOK_S = 1.0


def read_line(fd: int) -> bytes:
    """One line, read byte by byte, so that nothing behind it is taken; ends this process at EOF."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            sys.exit("the process that started this one is gone")
        line += byte
    return line


def watch_owner(on_gone: Callable[[], object]) -> None:
    """From now on a thread calls on_gone once our owner has gone.

    Seen by EOF on stdin, a pipe that the owner holds; and, since a fork of the owner may hold it too, by the
    change of our parent. PR_SET_PDEATHSIG would not do: it fires when the thread that started us ends.
    """
    parent = os.getppid()

    def watch() -> None:
        while True:
            readable, _, _ = select.select([0], [], [], _LOOK_S)
            if (readable and not os.read(0, 4096)) or os.getppid() != parent:
                on_gone()
                return

    threading.Thread(target=watch, name="owner", daemon=True).start()
