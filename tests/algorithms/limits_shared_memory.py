"""Fills memory that no process's own counter need show. Input: [HOW, MIB].

file: write() below /dev/shm; memfd: the same into a memory file; map: a shared anonymous map.
"""

import mmap
import os
import signal
import time

BLOCK = b"x" * (1 << 20)


def start(args, api):
    signal.alarm(60)
    how, *rest = args["input"]
    if how == "behave":
        return "served"
    mib = rest[0]
    if how == "map":
        memory = mmap.mmap(-1, mib << 20)
        for _ in range(mib):
            memory.write(BLOCK)
    else:
        if how == "file":
            fd = os.open(f"/dev/shm/limits_test_{os.getpid()}", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        else:
            fd = os.memfd_create("limits_test")
        for _ in range(mib):
            os.write(fd, BLOCK)
    time.sleep(1)
    return "nobody minded"
