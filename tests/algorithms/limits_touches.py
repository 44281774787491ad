"""Touches memory as fast as it can, and keeps account of it in a file that is shared with whoever asks.

Input: [HOW, MIB_EACH, PROCESSES, FILE]. HOW: pages (4 KiB pages) or huge (2 MiB pages, where the kernel has
them). The file has three 64-bit numbers for each process: bytes touched, and the clock (ns) at its first and
its last touch. With 0 processes this one itself does it.
"""

import ctypes
import mmap
import os
import signal
import struct
import time

STEP = 256 << 10


def touch(how, size, account, number):
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(14 if how == "huge" else 15)  # MADV_HUGEPAGE, MADV_NOHUGEPAGE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    began = time.monotonic_ns()
    for start in range(0, size, STEP):
        ctypes.memset(address + start, 1, STEP)
        struct.pack_into("QQQ", account, 24 * number, start + STEP, began, time.monotonic_ns())
    time.sleep(10)
    return memory


def start(args, api):
    signal.alarm(60)
    how, *rest = args["input"]
    if how == "behave":
        return "served"
    each, processes, path = rest
    with open(path, "r+b") as file:
        account = mmap.mmap(file.fileno(), 0)
    time.sleep(0.2)
    if not processes:
        touch(how, each << 20, account, 0)
    for number in range(min(processes, 16)):
        if os.fork() == 0:
            signal.alarm(30)
            try:
                touch(how, each << 20, account, number)
            finally:
                os._exit(0)
    for _ in range(processes):
        os.wait()
    return "nobody minded"
