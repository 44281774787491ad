"""Leaves a named shared memory block and a System V segment behind; what it answers are their names.

Input: ["long"] holds the block for a while, ["brief"] closes it within milliseconds.
"""

import ctypes
import signal
import time
from multiprocessing import resource_tracker, shared_memory

kept = []


def start(args, api):
    signal.alarm(60)
    block = shared_memory.SharedMemory(create=True, size=3 << 20)
    resource_tracker.unregister(block._name, "shared_memory")  # as those do who pass it on to others
    block.buf[:] = b"x" * (3 << 20)
    libc = ctypes.CDLL(None)
    segment = libc.shmget(0, ctypes.c_size_t(2 << 20), 0o1600)  # IPC_PRIVATE, IPC_CREAT
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(segment, None, 0)
    ctypes.memset(address, 1, 2 << 20)
    if args["input"][0] == "long":
        kept.append(block)
        time.sleep(0.3)
    return [block.name, segment]
