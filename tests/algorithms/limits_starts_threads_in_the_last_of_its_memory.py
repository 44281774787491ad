"""Fills its memory to the last page again and again, and starts a thread with a small stack in what it frees.

Input: [KIB], of a stack. Returns how many threads ran, and how many could not be started.
"""

import mmap
import signal
import threading

ROUNDS = 300
PAGE = 4096


def fill(blocks):
    size = 1 << 20
    while size >= PAGE:
        try:
            block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for at in range(0, size, PAGE):
                block[at : at + 1] = b"x"
            blocks.append(block)
        except (OSError, MemoryError):
            size //= 2


def free(blocks, wanted):
    freed = 0
    while blocks and freed < wanted:
        block = blocks.pop()
        freed += len(block)
        block.close()


def start(args, api):
    signal.alarm(60)
    stack = args["input"][0] << 10
    threading.stack_size(stack)
    ran = []
    threads = [threading.Thread(target=ran.append, args=(1,)) for _ in range(ROUNDS)]
    blocks = []
    refused = 0
    for number, thread in enumerate(threads):
        fill(blocks)
        free(blocks, stack + PAGE * (number % 12))
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            refused += 1
    blocks.clear()
    return [len(ran), refused]
