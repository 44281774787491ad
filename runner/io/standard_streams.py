"""Descriptors 0, 1 and 2 of this process, which its parent may have closed."""

from __future__ import annotations

import os


def fill_standard_streams() -> None:
    """Open /dev/null in place of each of 0, 1 and 2 that is closed.

    Otherwise a socket of hkrunner would get that number, and be written to or inherited as a standard stream.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # returns the lowest free descriptor: this one
