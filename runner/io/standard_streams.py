"""Descriptors 0, 1 and 2 of this process, which its parent may have closed."""

from __future__ import annotations

import contextlib
import os
import sys


def fill_standard_streams() -> None:
    """Open /dev/null in place of each of 0, 1 and 2 that is closed.

    Otherwise a socket of hkrunner would get that number, and be written to or inherited as a standard stream.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # returns the lowest free descriptor: this one


def write_to_stderr(text: str) -> None:
    """Write to sys.stderr, if that is possible: what is at work does not fail for it.

    Its reader may be gone, its disk full, its descriptor closed or used for something else.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()
