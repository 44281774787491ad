"""Repeats each allocation that is refused, for ever: at once or after a pause, in one thread or in four.

Input: [HOW]; spin, sleep, map_and_sleep, threads, small; fill frees all at each refusal, as does double, whose
blocks double; beyond asks for more than any limit leaves.
"""

import mmap
import signal
import threading
import time

MI = 1 << 20
held = []


def block():
    return bytearray(2 * MI)


def filled_map():
    one = mmap.mmap(-1, MI, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, MI, 4096):
        one[at : at + 1] = b"x"
    return one


def small():
    return [bytes(500) for _ in range(1000)]


def fill():
    blocks = []
    while True:
        blocks.append(b"x" * MI)


def double():
    blocks = [b"x" * MI]
    while True:
        blocks.append(b"x" * (2 * len(blocks[-1])))


def beyond():
    return b"x" * (1 << 30)


def repeat(make, pause_s):
    while True:
        try:
            held.append(make())
        except (MemoryError, OSError):
            if pause_s:
                time.sleep(pause_s)


def start(args, api):
    signal.alarm(60)
    how = args["input"][0]
    if how == "behave":
        return "served"
    if how == "threads":
        for _ in range(3):
            threading.Thread(target=repeat, args=(block, 0), daemon=True).start()
    ways = {"sleep": (block, 0.05), "map_and_sleep": (filled_map, 0.02), "small": (small, 0)}
    ways.update({"fill": (fill, 0), "double": (double, 0), "beyond": (beyond, 0)})
    repeat(*ways.get(how, (block, 0)))
