"""Maps a file that is larger than the limit and reads all of it. Input: [PATH]."""

import mmap
import signal
import time


def start(args, api):
    signal.alarm(60)
    with open(args["input"][0], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        total = 0
        for at in range(0, len(memory), 4096):
            total += memory[at]
        time.sleep(0.3)
        return total
