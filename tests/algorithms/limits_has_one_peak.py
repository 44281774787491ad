"""Reaches about 80 MiB once, in ways in which its memory could be counted twice."""

import multiprocessing.shared_memory
import os
import time

SIZE = 64 << 20


def start(args):
    way = args["input"][0]
    {"shared": shares, "forks": forks}[way]()
    return way


def shares():
    """Fill shared memory that this process maps, and that has a size of its own."""
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=SIZE)
    for at in range(0, SIZE, 1 << 20):
        memory.buf[at : at + (1 << 20)] = b"x" * (1 << 20)
        time.sleep(0.005)
    time.sleep(0.2)
    memory.close()
    memory.unlink()


def forks():
    """Fork processes that share this one's memory and end soon, three at a time."""
    block = b"x" * SIZE
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        for _ in range(3):
            if os.fork() == 0:
                time.sleep(0.02)
                os._exit(len(block) * 0)
        for _ in range(3):
            os.wait()
