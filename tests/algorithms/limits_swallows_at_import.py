"""Takes all the memory there is while it is imported, is content with less, and gives all of it back."""

import time

blocks = []
try:
    while True:
        blocks.append(bytearray(b"x" * (1 << 20)))
        time.sleep(0.002)  # on a busy machine hkrunner looks a little later
except MemoryError:
    blocks.clear()


def start(args, api):
    return "served"
