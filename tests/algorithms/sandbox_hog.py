"""Touches memory as fast as it can: sandbox_hog.py HOW MIB [PROCESSES] [START_DELAY_S].

HOW: pages (4 KiB pages), huge (huge pages), shared (a shared anonymous map), tmpfs (write() below /dev/shm),
memfd (write(), never mapped), numpy (one np.ones), list (many small objects). With PROCESSES, that many
children each touch MIB. Ends itself after 20 seconds.
"""

import ctypes
import mmap
import os
import signal
import sys
import time

signal.alarm(20)
STEP = 1 << 20


def touch(size, *, huge=False, shared=False):
    flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, size, flags=flags)
    if not shared:
        memory.madvise(14 if huge else 15)  # MADV_HUGEPAGE, MADV_NOHUGEPAGE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for start in range(0, size, STEP):
        ctypes.memset(address + start, 1, STEP)
    return memory


def write(fd, size):
    block = b"x" * STEP
    for _ in range(size // STEP):
        os.write(fd, block)
    return fd


def main():
    how, size = sys.argv[1], int(sys.argv[2]) << 20
    processes = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    delay = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    if how == "numpy":
        import numpy
    for _ in range(min(processes, 16)):
        if os.fork() == 0:
            signal.alarm(20)
            break
    else:
        if processes:
            time.sleep(15)
            os._exit(0)
    time.sleep(delay)
    try:
        if how == "numpy":
            kept = numpy.ones(size // 8)
        elif how == "list":
            kept = []
            while len(kept) * 100 < size:
                kept.append(bytearray(43))
        elif how == "tmpfs":
            fd = os.open(f"/dev/shm/hkrunner_hog_{os.getpid()}", os.O_CREAT | os.O_RDWR, 0o600)
            kept = write(fd, size)
        elif how == "memfd":
            kept = write(os.memfd_create("hog"), size)
        else:
            kept = touch(size, huge=how == "huge", shared=how == "shared")
    except (MemoryError, OSError) as error:
        print(f"refused: {type(error).__name__}: {error}", flush=True)
        os._exit(9)
    time.sleep(5)
    return kept


main()
